"""(operator, version) -> the step that brings a node to that version. Every version of every operator that ONNX has
published stands here, once; what does not stand here is refused. A test compares the table with onnx.defs."""

from __future__ import annotations

from types import MappingProxyType

from . import resizing, steps
from .steps import Step

SAME = """
11: Hardmax LogSoftmax NonMaxSuppression ReduceSum Softmax Split
13: Abs Ceil Erf Exp Expand Floor GatherElements LRN Log MeanVarianceNormalization Neg NonZero Reciprocal
    Sigmoid Sign SoftmaxCrossEntropyLoss Sqrt Tanh Tile
14: CumSum
15: BatchNormalization
16: GreaterOrEqual LeakyRelu LessOrEqual Where
20: IsInf
21: QLinearMatMul
22: Acos Acosh Asin Asinh Atan Atanh Bernoulli Cos Cosh DeformConv Det Elu EyeLike GlobalAveragePool
    GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish InstanceNormalization LpNormalization
    MaxRoiPool Mish Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round
    Selu Sin Sinh Softplus Softsign Tan ThresholdedRelu
24: SplitToSequence
27: Range
28: BitShift Celu Einsum Optional ReverseSequence Unique
8 13: Mean Sum
9 13: Greater Less MatMul
9 16: PRelu
11 13: Concat Gather ReduceL1 ReduceL2 ReduceMean ReduceProd ReduceSumSquare Slice
11 22: Conv ConvTranspose MaxUnpool
11 24: TopK
11 28: Compress OneHot
12 13: Clip GatherND
13 14: Add Div Mul Relu Sub
13 20: IsNaN
13 22: Dropout NegativeLogLikelihoodLoss
13 28: Mod SpaceToDepth
14 22: LSTM RNN
18 19: Resize
18 28: OptionalGetElement OptionalHasElement
24 25: Attention
3 14 22: GRU
8 12 13: Max Min
9 11 13: Gemm
11 12 13: ArgMax ArgMin
11 13 19: Equal
11 13 28: DepthToSpace ReduceLogSum ReduceLogSumExp
11 18 22: LpPool
12 13 15: Pow
13 16 18: ScatterElements ScatterND
7 10 11 22: AveragePool
11 12 13 20: ReduceMax ReduceMin
8 10 11 12 22: MaxPool
11 21 23 24 25: Squeeze Unsqueeze
13 21 23 24 25: Transpose
19 21 23 24 25: CastLike
20 21 23 24 25: ConstantOfShape
13 19 21 23 24 25: Size
9 11 13 21 23 24 25: Flatten
11 16 19 21 23 24 25: Scan
13 14 19 21 23 24 25: Reshape
13 15 19 21 23 24 25: Shape
13 18 19 21 23 24 25: Pad
13 19 21 23 24 25 28: DequantizeLinear QuantizeLinear
9 13 19 21 23 24 25 28: Cast
11 13 16 19 21 23 24 25: If Loop
13 14 16 19 21 23 24 25: Identity
9 11 12 13 19 21 23 24 25: Constant
"""
"""versions: operators. They gained types, or an attribute or input whose default is what was before."""

CONSUMED = """
Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid InstanceNormalization LeakyRelu Log Max Mean
Min Mul Neg PRelu Reciprocal Relu Selu Sigmoid Sqrt Sub Sum Tanh Gemm
"""
"""Version 6: consumed_inputs, a hint about memory, is gone."""

BROADCAST = "Add And Div Equal Greater Less Mul Or Pow Sub Xor"
"""Version 7."""

REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
)
"""Version 18; ReduceSum had it in 13."""

SELU = {"alpha": 1.6732000112533569, "gamma": 1.0506999492645264}
"""The defaults of version 1."""

STEPS: dict[tuple[str, int], Step] = {
    **dict.fromkeys([(op, 6) for op in CONSUMED.split()], steps.forget("consumed_inputs")),
    **dict.fromkeys([(op, 7) for op in BROADCAST.split()], steps.broadcast),
    **dict.fromkeys([(op, 18) for op in REDUCTIONS.split()], steps.ints_to_input("axes", 1)),
    **dict.fromkeys([(op, 13) for op in ("Softmax", "LogSoftmax", "Hardmax")], steps.flattened),
    **dict.fromkeys([(op, 7) for op in ("RNN", "GRU", "LSTM")], steps.forget("output_sequence")),
    **dict.fromkeys(
        [(op, 13) for op in ("Squeeze", "Unsqueeze", "ReduceSum")], steps.ints_to_input("axes", 1)
    ),
    **dict.fromkeys([("LpPool", 2), ("GlobalLpPool", 2)], steps.whole_p),
    ("AveragePool", 19): steps.ceil_average,
    ("BatchNormalization", 7): steps.test_mode,
    ("BatchNormalization", 9): steps.per_element,
    ("BatchNormalization", 14): steps.inference,
    ("Cast", 6): steps.type_by_name,
    ("Clip", 11): steps.clip,
    ("Concat", 4): steps.spell(axis=1),
    ("DFT", 20): steps.axis_to_input,
    ("Dropout", 7): steps.test_mode,
    ("Dropout", 10): steps.mask_of_type,
    ("Dropout", 12): steps.drop_ratio,
    ("Gemm", 7): steps.forget("broadcast"),
    ("GridSample", 20): steps.grid_modes,
    ("GroupNormalization", 21): steps.group_channels,
    ("PRelu", 7): steps.channels,
    ("Pad", 2): steps.rename("paddings", "pads"),
    ("Pad", 11): steps.pad,
    ("Reshape", 5): steps.shape_to_input,
    ("Resize", 11): resizing.asymmetric,
    ("Resize", 13): resizing.half_pixel_nn,
    ("RoiAlign", 16): steps.spell(coordinate_transformation_mode="output_half_pixel"),
    ("Scan", 9): steps.refuse("Scan 8 runs over a batch, and later ones do not"),
    ("Scatter", 11): steps.renamed("ScatterElements"),
    ("Selu", 6): steps.both(steps.forget("consumed_inputs"), steps.spell(**SELU)),
    ("Slice", 10): steps.slice_to_inputs,
    ("Split", 2): steps.spell(axis=0),
    ("Split", 13): steps.ints_to_input("split", 1),
    ("Split", 18): steps.count_outputs,
    ("Tile", 6): steps.repeats,
    ("TopK", 10): steps.k_to_input,
    ("Upsample", 7): resizing.scales_of_sides,
    ("Upsample", 9): resizing.scales_to_input,
    ("Upsample", 10): steps.renamed("Resize"),
}


def _same() -> dict[tuple[str, int], Step]:
    found: dict[tuple[str, int], Step] = {}
    for line in SAME.strip().replace("\n    ", " ").splitlines():
        versions, _, ops = line.partition(":")
        found |= {(op, int(version)): steps.same for op in ops.split() for version in versions.split()}
    return found


TABLE = MappingProxyType(_same() | STEPS)
