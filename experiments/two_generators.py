"""Two toy generators that explain LeNet: `python experiments/two_generators.py`.

After Charachon et al. 2020 (Ayyar et al. 2021 Eq. 27): g_s draws a digit that LeNet takes for the same, g_a one that it
takes for another, and R = |g_s(x) - g_a(x)| is what had to change. The review gives no objective; this one is ours:
    CE(f(g_s(x)), c) - log(1 - p_c(g_a(x))) + λ |g_s(x) - x|² + μ |g_s(x) - g_a(x)|
with c the class of f(x). Both generators are small convolutional autoencoders that start with the same weights. They
are trained in torch on 1000 digits, written as ONNX, compiled with LeNet into one file, and looked at on 1000 others.
Writes results/two_generators.md and a picture beside it; takes about a minute on two cores.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from onnxplain import models
from onnxplain.runtime.explainer import Explainer, Result
from onnxplain.runtime.perturb.two_generators import explain_by_generators

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Floats = npt.NDArray[np.float32]

RESULTS = Path(__file__).parent / "results"
MODEL = models.path("mnist_lenet")
NEAR, SPARSE = 40.0, 10.0
"""λ and μ, of means over pixels."""
EPOCHS, BATCH, RATE = 30, 50, 2e-3


class Generator(nn.Module):
    """Two convolutions down to 7 x 7, two transposed ones up again, a sigmoid: pictures in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ConvTranspose2d(16, 1, 4, 2, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.up[1](torch.relu(self.up[0](x))))

    def to_onnx(self) -> onnx.ModelProto:
        """The same network, from its weights."""
        nodes, weights, name = [], [], "x"
        for i, layer in enumerate((*self.down, *self.up)):
            last = i == 3
            op, kernel = ("Conv", [3, 3]) if i < 2 else ("ConvTranspose", [4, 4])
            nodes += [
                helper.make_node(
                    op,
                    [name, f"w{i}", f"b{i}"],
                    [f"h{i}"],
                    kernel_shape=kernel,
                    strides=[2, 2],
                    pads=[1, 1, 1, 1],
                ),
                helper.make_node("Sigmoid" if last else "Relu", [f"h{i}"], ["y" if last else f"a{i}"]),
            ]
            for kind, value in (("w", layer.weight), ("b", layer.bias)):
                weights.append(numpy_helper.from_array(value.detach().numpy(), f"{kind}{i}"))
            name = f"a{i}"
        shape = ["N", 1, 28, 28]
        ends = [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, shape) for end in ("x", "y")]
        graph = helper.make_graph(nodes, "generator", ends[:1], ends[1:], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class LeNet:
    """The shipped network in torch, with the weights of its file."""

    def __init__(self) -> None:
        stored = onnx.load(MODEL).graph.initializer
        w = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in stored}
        self.layers = [(w[f"{name}.weight"], w[f"{name}.bias"]) for name in ("conv1", "conv2", "fc1", "fc2")]

    def __call__(self, x: Tensor) -> Tensor:
        for weight, bias in self.layers[:2]:
            x = functional.max_pool2d(torch.relu(functional.conv2d(x, weight, bias)), 2)
        hidden = torch.relu(functional.linear(x.flatten(1), *self.layers[2]))
        return functional.linear(hidden, *self.layers[3])


def train(x: Tensor, classify: LeNet) -> tuple[Generator, Generator]:
    """Both generators, from one start."""
    torch.manual_seed(0)
    similar, adversarial = Generator(), Generator()
    adversarial.load_state_dict(similar.state_dict())
    optimizer = torch.optim.Adam([*similar.parameters(), *adversarial.parameters()], RATE)
    with torch.no_grad():
        labels = classify(x).argmax(1)
    for _ in track(range(EPOCHS), "training"):
        for index in torch.randperm(len(x)).split(BATCH):
            like, unlike, c = similar(x[index]), adversarial(x[index]), labels[index]
            other = functional.log_softmax(classify(unlike), 1)
            not_c = other.masked_fill(functional.one_hot(c, 10).bool(), -torch.inf).logsumexp(1)
            loss = functional.cross_entropy(classify(like), c) - not_c.mean()
            loss = loss + NEAR * (like - x[index]).square().mean() + SPARSE * (like - unlike).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return similar, adversarial


def picture(x: Floats, result: Result, again: Result, path: Path) -> None:
    """A column a digit; x, g_s(x), g_a(x), R. again: of g_a(x), for the class that LeNet sees there."""
    classes, others = (r.outputs["logits"].argmax(axis=1) for r in (result, again))
    rows = {
        "x": x,
        "g_s(x)": result.results["similar"],
        "g_a(x)": result.results["adversarial"],
        "R": result.attribution,
    }
    figure, axes = plt.subplots(len(rows), len(x), figsize=(1.05 * len(x), 4.8), layout="constrained")
    for i, (title, images) in enumerate(rows.items()):
        for j, axis in enumerate(axes[i]):
            heat = title == "R"
            axis.imshow(images[j, 0], cmap="inferno" if heat else "gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if i in (0, 2):
                axis.set_title(str((classes if i == 0 else others)[j]), fontsize=9)
        axes[i][0].set_ylabel(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(result: Result, x: Floats, size: int) -> str:
    kept, flipped = result.results["kept"].mean(), result.results["flipped"].mean()
    both = (result.results["kept"] & result.results["flipped"]).mean()
    changed, ink = result.attribution.mean(), x.mean()
    off = np.abs(result.results["similar"] - x).mean()
    share = [(r > 0.5 * r.max()).mean() for r in result.attribution]
    return "\n".join(
        [
            "# Two generators explain LeNet",
            "",
            "Made by `python experiments/two_generators.py`, after Charachon et al. 2020 (Ayyar et al. 2021 Eq. 27).",
            "",
            f"Trained on 1000 digits; the file with LeNet and both generators has {size / 1e3:.0f} "
            "kB. On 1000 other digits:",
            "",
            "| | |",
            "| --- | --- |",
            f"| kept: g_s(x) has the class of x | {kept:.3f} |",
            f"| flipped: g_a(x) has another | {flipped:.3f} |",
            f"| both | {both:.3f} |",
            f"| mean of abs(g_s(x) - x), the ink of a digit being {ink:.3f} | {off:.3f} |",
            f"| mean of R | {changed:.3f} |",
            f"| share of pixels with R above half of its largest value | {np.mean(share):.3f} |",
            "",
            "![digits, what the generators make of them, and R](two_generators.png)",
            "",
            "Above each digit what LeNet says of it, above g_a(x) what it says of that. In this picture, of a seeded "
            "run: 3 and 7 become 1 where their horizontal strokes go, 9 becomes 7 where its loop opens, and R lies on "
            "just these. 0, 1, 4, 6 and 8 are flipped by gaps four pixels apart as well, the stride of the generator, "
            "which no writer would leave: those are adversarial pictures, and their R tells of LeNet, not of digits. "
            "The 5 is not flipped, and its R explains nothing; that is what the check is for.",
            "",
        ]
    )


def explainer(similar: Generator, adversarial: Generator) -> Explainer:
    return explain_by_generators(MODEL, similar.to_onnx(), adversarial.to_onnx(), threads=1)


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # the batches are small
    torch.set_flush_denormal(True)
    digits, labels = models.digits()
    x = (digits[:, None] / 255).astype(np.float32)
    made = explainer(*train(torch.tensor(x[:1000]), LeNet()))
    test = x[1000:]
    result = made(test)
    shown = [int(np.flatnonzero(labels[1000:] == digit)[0]) for digit in range(10)]
    part = made(test[shown])
    picture(test[shown], part, made(part.results["adversarial"]), RESULTS / "two_generators.png")
    text = report(result, test, len(made.model.SerializeToString()))
    (RESULTS / "two_generators.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
