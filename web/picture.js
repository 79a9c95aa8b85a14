// Files to pixels, pixels to canvases. Pictures are {width, height, data}: RGB, three bytes a pixel.

const LIMIT = 40_000_000;

/** A file or blob as a picture: upright, transparency laid over white, colour profiles ignored. */
export async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(`${blob.name ?? "This file"} cannot be read as a picture.`);
  }
  const { width, height } = bitmap;
  if (width * height > LIMIT) {
    bitmap.close();
    throw new Error(`The picture is too large (${width} × ${height} pixels); scale it down first.`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, at = 0; i < rgba.length; i += 4, at += 3) {
    data[at] = rgba[i];
    data[at + 1] = rgba[i + 1];
    data[at + 2] = rgba[i + 2];
  }
  return { width, height, data };
}

export function rgba({ width, height, data }) {
  if (data.length === width * height * 4) return { width, height, data };
  const out = new Uint8ClampedArray(width * height * 4);
  for (let i = 0, at = 0; at < data.length; i += 4, at += 3) {
    out[i] = data[at];
    out[i + 1] = data[at + 1];
    out[i + 2] = data[at + 2];
    out[i + 3] = 255;
  }
  return { width, height, data: out };
}

/** RGB or RGBA pixels into a canvas of their size; few pixels keep their edges. */
export function draw(canvas, pixels) {
  const { width, height, data } = rgba(pixels);
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle("coarse", Math.max(width, height) <= 256);
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
