// java -cp onnxruntime-1.23.2.jar Explain.java FILE.onnx INPUT.f32 HEATMAP.f32
// The jar is com.microsoft.onnxruntime:onnxruntime of Maven Central; the files are those of ../node/explain.mjs.
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

class Explain {
    public static void main(String[] args) throws Exception {
        var environment = OrtEnvironment.getEnvironment();
        try (var session = environment.createSession(args[0])) {
            var picture = session.getInputNames().stream().filter(name -> !name.equals("target")).findFirst().get();
            var shape = ((TensorInfo) session.getInputInfo().get(picture).getInfo()).getShape().clone();
            shape[0] = 1;
            var bytes = ByteBuffer.wrap(Files.readAllBytes(Path.of(args[1]))).order(ByteOrder.LITTLE_ENDIAN);
            var pixels = FloatBuffer.allocate(bytes.remaining() / 4).put(bytes.asFloatBuffer()).rewind();
            var top = LongBuffer.wrap(new long[] {-1});
            try (var x = OnnxTensor.createTensor(environment, pixels, shape);
                    var target = OnnxTensor.createTensor(environment, top, new long[] {1, 1});
                    var result = session.run(Map.of(picture, x, "target", target))) {
                var scores = ((float[][]) result.get(0).getValue())[0];
                var heat = (OnnxTensor) result.get("heatmap").get();
                var best = 0;
                for (var i = 0; i < scores.length; i++) best = scores[i] > scores[best] ? i : best;
                System.out.println("class " + best + ", heat map of " + heat.getFloatBuffer().remaining() + " pixels");
                var out = ByteBuffer.allocate(4 * heat.getFloatBuffer().remaining()).order(ByteOrder.LITTLE_ENDIAN);
                out.asFloatBuffer().put(heat.getFloatBuffer());
                Files.write(Path.of(args[2]), out.array());
            }
        }
    }
}
