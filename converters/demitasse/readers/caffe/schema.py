"""Hold caffe.proto as data: messages, field numbers, names, kinds, enums and defaults.

The tables follow src/caffe/proto/caffe.proto of BVLC Caffe 1.0, whose field numbers are a file format. Forks
added fields of their own, and the same number often means different things in different forks; their fields
stand here by name, without a number, unless the number belongs to nobody else (SSD's 200 to 207, NVCaffe's
`raw_data`). A prototxt is read by name and is never ambiguous; `block_of_type` tells which block a fork's
layer carries in a binary file.

A table's row reads `number name kind [* if repeated] [= default]`; a kind in braces is an enum, a capitalised
one a message; `floats` and `doubles` are a blob's numbers, and `unused` marks gradients, which no reader
wants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

__all__ = ["V0_TYPES", "V1_TYPES", "FieldSpec", "Kind", "MessageSpec", "block_of_type", "message_spec"]


class Kind(Enum):
    """What a field holds; the value says what an error message asks for."""

    INT32 = "a whole number (32 bits)"
    INT64 = "a whole number"
    UINT32 = "a whole number from 0 (32 bits)"
    UINT64 = "a whole number from 0"
    FLOAT = "a number"
    DOUBLE = "a number (double precision)"
    BOOL = "true or false"
    STRING = "a quoted string"
    BYTES = "a quoted string of bytes"
    ENUM = "a bare word"
    MESSAGE = "a block in braces"
    FLOATS = "numbers"
    DOUBLES = "numbers (double precision)"
    UNUSED = "anything"


_SCALARS = {
    "int32": Kind.INT32,
    "int64": Kind.INT64,
    "uint32": Kind.UINT32,
    "uint64": Kind.UINT64,
    "float": Kind.FLOAT,
    "double": Kind.DOUBLE,
    "bool": Kind.BOOL,
    "string": Kind.STRING,
    "bytes": Kind.BYTES,
    "floats": Kind.FLOATS,
    "doubles": Kind.DOUBLES,
    "unused": Kind.UNUSED,
}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """What the schema says of one field; `number` is None for fields that are known by name alone."""

    number: int | None
    name: str
    kind: Kind
    repeated: bool
    message: str = ""
    enum: Mapping[str, int] | None = None
    default: int | float | bool | str | None = None


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """What the schema says of one message."""

    name: str
    by_name: Mapping[str, FieldSpec]
    by_number: Mapping[int, FieldSpec]


_ENGINE = "{DEFAULT=0 CAFFE=1 CUDNN=2} = DEFAULT"
_POOL = "{MAX=0 AVE=1 STOCHASTIC=2} = MAX"
_PHASE = "{TRAIN=0 TEST=1}"
_SHARE = "{STRICT=0 PERMISSIVE=1}"
_CODE = "{CORNER=1 CENTER_SIZE=2 CORNER_SIZE=3} = CORNER"
_IMAGES = "2 scale float = 1; 3 mean_file string; 5 crop_size uint32 = 0; 6 mirror bool = false"

_V1_ENUM = (
    "{NONE=0 ABSVAL=35 ACCURACY=1 ARGMAX=30 BNLL=2 CONCAT=3 CONTRASTIVE_LOSS=37 CONVOLUTION=4 DATA=5 DECONVOLUTION=39 "
    "DROPOUT=6 DUMMY_DATA=32 EUCLIDEAN_LOSS=7 ELTWISE=25 EXP=38 FLATTEN=8 HDF5_DATA=9 HDF5_OUTPUT=10 HINGE_LOSS=28 "
    "IM2COL=11 IMAGE_DATA=12 INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15 MEMORY_DATA=29 MULTINOMIAL_LOGISTIC_LOSS=16 "
    "MVN=34 POOLING=17 POWER=26 RELU=18 SIGMOID=19 SIGMOID_CROSS_ENTROPY_LOSS=27 SILENCE=36 SOFTMAX=20 SOFTMAX_LOSS=21 "
    "SPLIT=22 SLICE=33 TANH=23 WINDOW_DATA=24 THRESHOLD=31}"
)

_TABLES: dict[str, str] = {
    # The net and what it is made of.
    "NetParameter": """
        1 name string; 3 input string*; 8 input_shape BlobShape*; 4 input_dim int32*; 5 force_backward
        bool = false; 6 state NetState; 7 debug_info bool = false; 100 layer LayerParameter*; 2 layers
        V1LayerParameter*""",
    "NetState": f"1 phase {_PHASE} = TEST; 2 level int32 = 0; 3 stage string*",
    "NetStateRule": f"1 phase {_PHASE}; 2 min_level int32; 3 max_level int32; 4 stage string*; 5 not_stage string*",
    "BlobShape": "1 dim int64*",
    "BlobProto": """
        7 shape BlobShape; 5 data floats; 6 diff unused; 8 double_data doubles; 9 double_diff unused; 1
        num int32 = 0; 2 channels int32 = 0; 3 height int32 = 0; 4 width int32 = 0; 10 raw_data_type
        {DOUBLE=0 FLOAT=1 FLOAT16=2 INT=3 UINT=4}; 12 raw_data bytes; 11 raw_diff_type unused; 13 raw_diff
        unused""",
    "ParamSpec": f"1 name string; 2 share_mode {_SHARE} = STRICT; 3 lr_mult float = 1; 4 decay_mult float = 1",
    "FillerParameter": """
        1 type string = constant; 2 value float = 0; 3 min float = 0; 4 max float = 1; 5 mean float = 0; 6
        std float = 1; 7 sparse int32 = -1; 8 variance_norm {FAN_IN=0 FAN_OUT=1 AVERAGE=2} = FAN_IN""",
    "LayerParameter": f"""
        1 name string; 2 type string; 3 bottom string*; 4 top string*; 10 phase {_PHASE}; 5 loss_weight
        float*; 6 param ParamSpec*; 7 blobs BlobProto*; 11 propagate_down bool*; 8 include NetStateRule*;
        9 exclude NetStateRule*; 100 transform_param TransformationParameter; 101 loss_param
        LossParameter; 102 accuracy_param AccuracyParameter; 103 argmax_param ArgMaxParameter; 139
        batch_norm_param BatchNormParameter; 141 bias_param BiasParameter; 148 clip_param ClipParameter;
        104 concat_param ConcatParameter; 105 contrastive_loss_param ContrastiveLossParameter; 106
        convolution_param ConvolutionParameter; 144 crop_param CropParameter; 107 data_param
        DataParameter; 108 dropout_param DropoutParameter; 109 dummy_data_param DummyDataParameter; 110
        eltwise_param EltwiseParameter; 140 elu_param ELUParameter; 137 embed_param EmbedParameter; 111
        exp_param ExpParameter; 135 flatten_param FlattenParameter; 112 hdf5_data_param HDF5DataParameter;
        113 hdf5_output_param HDF5OutputParameter; 114 hinge_loss_param HingeLossParameter; 115
        image_data_param ImageDataParameter; 116 infogain_loss_param InfogainLossParameter; 117
        inner_product_param InnerProductParameter; 143 input_param InputParameter; 134 log_param
        LogParameter; 118 lrn_param LRNParameter; 119 memory_data_param MemoryDataParameter; 120 mvn_param
        MVNParameter; 145 parameter_param ParameterParameter; 121 pooling_param PoolingParameter; 122
        power_param PowerParameter; 131 prelu_param PReLUParameter; 130 python_param PythonParameter; 146
        recurrent_param RecurrentParameter; 136 reduction_param ReductionParameter; 123 relu_param
        ReLUParameter; 133 reshape_param ReshapeParameter; 142 scale_param ScaleParameter; 124
        sigmoid_param SigmoidParameter; 125 softmax_param SoftmaxParameter; 132 spp_param SPPParameter;
        126 slice_param SliceParameter; 147 swish_param SwishParameter; 127 tanh_param TanHParameter; 128
        threshold_param ThresholdParameter; 138 tile_param TileParameter; 129 window_data_param
        WindowDataParameter; 200 annotated_data_param AnnotatedDataParameter; 201 multibox_loss_param
        MultiBoxLossParameter; 202 permute_param PermuteParameter; 203 prior_box_param PriorBoxParameter;
        204 detection_output_param DetectionOutputParameter; 205 detection_evaluate_param
        DetectionEvaluateParameter; 206 norm_param NormalizeParameter; 207 video_data_param
        VideoDataParameter; - bn_param BNParameter; - interp_param InterpParameter; - upsample_param
        UpsampleParameter; - shuffle_channel_param ShuffleChannelParameter; - roi_pooling_param
        ROIPoolingParameter; - psroi_pooling_param PSROIPoolingParameter; - proposal_param
        ProposalParameter; - reorg_param ReorgParameter; - region_param RegionParameter; -
        yolo_detection_output_param YoloDetectionOutputParameter; - yolov3_detection_output_param
        Yolov3DetectionOutputParameter; - relu6_param ReLUParameter; - lstm_param LSTMParameter; -
        depthwise_convolution_param ConvolutionParameter; - convolution3d_param Convolution3DParameter; -
        pooling3d_param Pooling3DParameter; - smooth_l1_loss_param SmoothL1LossParameter; -
        unpooling_param PoolingParameter; - mish_param ReLUParameter; - correlation_param
        CorrelationParameter; - resample_param ResampleParameter""",
    "TransformationParameter": """
        1 scale float = 1; 2 mirror bool = false; 3 crop_size uint32 = 0; 4 mean_file string; 5 mean_value
        float*; 6 force_color bool = false; 7 force_gray bool = false; 11 crop_h uint32 = 0; 12 crop_w
        uint32 = 0; 8 resize_param ResizeParameter""",
    "ResizeParameter": """
        1 prob float = 1; 2 resize_mode {WARP=1 FIT_SMALL_SIZE=2 FIT_LARGE_SIZE_AND_PAD=3} = WARP; 3
        height uint32 = 0; 4 width uint32 = 0; 8 height_scale uint32 = 0; 9 width_scale uint32 = 0; 5
        pad_mode {CONSTANT=1 MIRRORED=2 REPEAT_NEAREST=3} = CONSTANT; 6 pad_value float*; 7 interp_mode
        {LINEAR=1 AREA=2 NEAREST=3 CUBIC=4 LANCZOS4=5}*""",
    "LossParameter": """
        1 ignore_label int32; 3 normalization {FULL=0 VALID=1 BATCH_SIZE=2 NONE=3} = VALID; 2 normalize
        bool""",
    # Layers of BVLC Caffe 1.0.
    "AccuracyParameter": "1 top_k uint32 = 1; 2 axis int32 = 1; 3 ignore_label int32",
    "ArgMaxParameter": "1 out_max_val bool = false; 2 top_k uint32 = 1; 3 axis int32",
    "BatchNormParameter": "1 use_global_stats bool; 2 moving_average_fraction float = .999; 3 eps float = 1e-5",
    "BiasParameter": "1 axis int32 = 1; 2 num_axes int32 = 1; 3 filler FillerParameter",
    "ClipParameter": "1 min float; 2 max float",
    "ConcatParameter": "2 axis int32 = 1; 1 concat_dim uint32 = 1",
    "ContrastiveLossParameter": "1 margin float = 1; 2 legacy_version bool = false",
    "ConvolutionParameter": f"""
        1 num_output uint32; 2 bias_term bool = true; 3 pad uint32*; 4 kernel_size uint32*; 6 stride
        uint32*; 18 dilation uint32*; 9 pad_h uint32 = 0; 10 pad_w uint32 = 0; 11 kernel_h uint32; 12
        kernel_w uint32; 13 stride_h uint32; 14 stride_w uint32; 5 group uint32 = 1; 7 weight_filler
        FillerParameter; 8 bias_filler FillerParameter; 15 engine {_ENGINE}; 16 axis int32 = 1; 17
        force_nd_im2col bool = false; - hole uint32 = 1; - hole_h uint32 = 1; - hole_w uint32 = 1""",
    "CropParameter": "1 axis int32 = 2; 2 offset uint32*",
    "DataParameter": f"""
        1 source string; 4 batch_size uint32; 7 rand_skip uint32 = 0; 8 backend {{LEVELDB=0 LMDB=1}} =
        LEVELDB; {_IMAGES}; 9 force_encoded_color bool = false; 10 prefetch uint32 = 4""",
    "DropoutParameter": "1 dropout_ratio float = 0.5; - scale_train bool = true; - sample_weights_test bool = false",
    "DummyDataParameter": """
        1 data_filler FillerParameter*; 6 shape BlobShape*; 2 num uint32*; 3 channels uint32*; 4 height
        uint32*; 5 width uint32*""",
    "EltwiseParameter": "1 operation {PROD=0 SUM=1 MAX=2} = SUM; 2 coeff float*; 3 stable_prod_grad bool = true",
    "ELUParameter": "1 alpha float = 1",
    "EmbedParameter": """
        1 num_output uint32; 2 input_dim uint32; 3 bias_term bool = true; 4 weight_filler FillerParameter;
        5 bias_filler FillerParameter""",
    "ExpParameter": "1 base float = -1; 2 scale float = 1; 3 shift float = 0",
    "FlattenParameter": "1 axis int32 = 1; 2 end_axis int32 = -1",
    "HDF5DataParameter": "1 source string; 2 batch_size uint32; 3 shuffle bool = false",
    "HDF5OutputParameter": "1 file_name string",
    "HingeLossParameter": "1 norm {L1=1 L2=2} = L1",
    "ImageDataParameter": f"""
        1 source string; 4 batch_size uint32 = 1; 7 rand_skip uint32 = 0; 8 shuffle bool = false; 9
        new_height uint32 = 0; 10 new_width uint32 = 0; 11 is_color bool = true; {_IMAGES}; 12 root_folder
        string = """,
    "InfogainLossParameter": "1 source string; 2 axis int32 = 1",
    "InnerProductParameter": """
        1 num_output uint32; 2 bias_term bool = true; 3 weight_filler FillerParameter; 4 bias_filler
        FillerParameter; 5 axis int32 = 1; 6 transpose bool = false""",
    "InputParameter": "1 shape BlobShape*",
    "LogParameter": "1 base float = -1; 2 scale float = 1; 3 shift float = 0",
    "LRNParameter": f"""
        1 local_size uint32 = 5; 2 alpha float = 1; 3 beta float = 0.75; 4 norm_region {{ACROSS_CHANNELS=0
        WITHIN_CHANNEL=1}} = ACROSS_CHANNELS; 5 k float = 1; 6 engine {_ENGINE}""",
    "MemoryDataParameter": "1 batch_size uint32; 2 channels uint32; 3 height uint32; 4 width uint32",
    "MVNParameter": "1 normalize_variance bool = true; 2 across_channels bool = false; 3 eps float = 1e-9",
    "ParameterParameter": "1 shape BlobShape",
    "PoolingParameter": f"""
        1 pool {_POOL}; 4 pad uint32 = 0; 9 pad_h uint32 = 0; 10 pad_w uint32 = 0; 2 kernel_size uint32; 5
        kernel_h uint32; 6 kernel_w uint32; 3 stride uint32 = 1; 7 stride_h uint32; 8 stride_w uint32; 11
        engine {_ENGINE}; 12 global_pooling bool = false; 13 round_mode {{CEIL=0 FLOOR=1}} = CEIL; -
        ceil_mode bool = true""",
    "PowerParameter": "1 power float = 1; 2 scale float = 1; 3 shift float = 0",
    "PReLUParameter": "1 filler FillerParameter; 2 channel_shared bool = false",
    "PythonParameter": "1 module string; 2 layer string; 3 param_str string = ; 4 share_in_parallel bool = false",
    "RecurrentParameter": """
        1 num_output uint32 = 0; 2 weight_filler FillerParameter; 3 bias_filler FillerParameter; 4
        debug_info bool = false; 5 expose_hidden bool = false""",
    "ReductionParameter": "1 operation {SUM=1 ASUM=2 SUMSQ=3 MEAN=4} = SUM; 2 axis int32 = 0; 3 coeff float = 1",
    "ReLUParameter": f"1 negative_slope float = 0; 2 engine {_ENGINE}",
    "ReshapeParameter": "1 shape BlobShape; 2 axis int32 = 0; 3 num_axes int32 = -1",
    "ScaleParameter": """
        1 axis int32 = 1; 2 num_axes int32 = 1; 3 filler FillerParameter; 4 bias_term bool = false; 5
        bias_filler FillerParameter""",
    "SigmoidParameter": f"1 engine {_ENGINE}",
    "SliceParameter": "3 axis int32 = 1; 2 slice_point uint32*; 1 slice_dim uint32 = 1",
    "SoftmaxParameter": f"1 engine {_ENGINE}; 2 axis int32 = 1",
    "SPPParameter": f"1 pyramid_height uint32; 2 pool {_POOL}; 6 engine {_ENGINE}",
    "SwishParameter": "1 beta float = 1",
    "TanHParameter": f"1 engine {_ENGINE}",
    "ThresholdParameter": "1 threshold float = 0",
    "TileParameter": "1 axis int32 = 1; 2 tiles int32",
    "WindowDataParameter": f"""
        1 source string; {_IMAGES}; 4 batch_size uint32; 7 fg_threshold float = 0.5; 8 bg_threshold float
        = 0.5; 9 fg_fraction float = 0.25; 10 context_pad uint32 = 0; 11 crop_mode string = warp; 12
        cache_images bool = false; 13 root_folder string = """,
    # The two generations of layers before LayerParameter.
    "V1LayerParameter": f"""
        2 bottom string*; 3 top string*; 4 name string; 32 include NetStateRule*; 33 exclude
        NetStateRule*; 5 type {_V1_ENUM}; 6 blobs BlobProto*; 1001 param string*; 1002 blob_share_mode
        {_SHARE}*; 7 blobs_lr float*; 8 weight_decay float*; 35 loss_weight float*; 27 accuracy_param
        AccuracyParameter; 23 argmax_param ArgMaxParameter; 9 concat_param ConcatParameter; 40
        contrastive_loss_param ContrastiveLossParameter; 10 convolution_param ConvolutionParameter; 11
        data_param DataParameter; 12 dropout_param DropoutParameter; 26 dummy_data_param
        DummyDataParameter; 24 eltwise_param EltwiseParameter; 41 exp_param ExpParameter; 13
        hdf5_data_param HDF5DataParameter; 14 hdf5_output_param HDF5OutputParameter; 29 hinge_loss_param
        HingeLossParameter; 15 image_data_param ImageDataParameter; 16 infogain_loss_param
        InfogainLossParameter; 17 inner_product_param InnerProductParameter; 18 lrn_param LRNParameter; 22
        memory_data_param MemoryDataParameter; 34 mvn_param MVNParameter; 19 pooling_param
        PoolingParameter; 21 power_param PowerParameter; 30 relu_param ReLUParameter; 38 sigmoid_param
        SigmoidParameter; 39 softmax_param SoftmaxParameter; 31 slice_param SliceParameter; 37 tanh_param
        TanHParameter; 25 threshold_param ThresholdParameter; 20 window_data_param WindowDataParameter; 36
        transform_param TransformationParameter; 42 loss_param LossParameter; 1 layer V0LayerParameter""",
    "V0LayerParameter": f"""
        1 name string; 2 type string; 3 num_output uint32; 4 biasterm bool = true; 5 weight_filler
        FillerParameter; 6 bias_filler FillerParameter; 7 pad uint32 = 0; 8 kernelsize uint32; 9 group
        uint32 = 1; 10 stride uint32 = 1; 11 pool {_POOL}; 12 dropout_ratio float = 0.5; 13 local_size
        uint32 = 5; 14 alpha float = 1; 15 beta float = 0.75; 22 k float = 1; 16 source string; 17 scale
        float = 1; 18 meanfile string; 19 batchsize uint32; 20 cropsize uint32 = 0; 21 mirror bool =
        false; 50 blobs BlobProto*; 51 blobs_lr float*; 52 weight_decay float*; 53 rand_skip uint32 = 0;
        54 det_fg_threshold float = 0.5; 55 det_bg_threshold float = 0.5; 56 det_fg_fraction float = 0.25;
        58 det_context_pad uint32 = 0; 59 det_crop_mode string = warp; 60 new_num int32 = 0; 61
        new_channels int32 = 0; 62 new_height int32 = 0; 63 new_width int32 = 0; 64 shuffle_images bool =
        false; 65 concat_dim uint32 = 1; 1001 hdf5_output_param HDF5OutputParameter""",
    # SSD (weiliu89/caffe), whose numbers other forks kept.
    "AnnotatedDataParameter": "2 label_map_file string",
    "DetectionEvaluateParameter": """
        1 num_classes uint32; 2 background_label_id uint32 = 0; 3 overlap_threshold float = 0.5; 4
        evaluate_difficult_gt bool = true; 5 name_size_file string; 6 resize_param ResizeParameter""",
    "DetectionOutputParameter": f"""
        1 num_classes uint32; 2 share_location bool = true; 3 background_label_id int32 = 0; 4 nms_param
        NonMaximumSuppressionParameter; 5 save_output_param SaveOutputParameter; 6 code_type {_CODE}; 8
        variance_encoded_in_target bool = false; 7 keep_top_k int32 = -1; 9 confidence_threshold float; 10
        visualize bool = false; 11 visualize_threshold float; 12 save_file string""",
    "MultiBoxLossParameter": "4 num_classes uint32",
    "NonMaximumSuppressionParameter": "1 nms_threshold float = 0.3; 2 top_k int32; 3 eta float = 1",
    "NormalizeParameter": """
        1 across_spatial bool = true; 2 scale_filler FillerParameter; 3 channel_shared bool = true; 4 eps
        float = 1e-10""",
    "PermuteParameter": "1 order uint32*",
    "PriorBoxParameter": """
        1 min_size float*; 2 max_size float*; 3 aspect_ratio float*; 4 flip bool = true; 5 clip bool =
        false; 6 variance float*; 7 img_size uint32; 8 img_h uint32; 9 img_w uint32; 10 step float; 11
        step_h float; 12 step_w float; 13 offset float = 0.5""",
    "SaveOutputParameter": """
        1 output_directory string; 2 output_name_prefix string; 3 output_format string; 4 label_map_file
        string; 5 name_size_file string; 6 num_test_image uint32; 7 resize_param ResizeParameter""",
    "VideoDataParameter": """
        1 video_type {WEBCAM=0 VIDEO=1} = WEBCAM; 2 device_id int32 = 0; 3 video_file string; 4
        skip_frames uint32 = 0""",
    # Other forks. Numbers inside these blocks are their own; the number of the block differs from fork to
    # fork.
    "BNParameter": f"""
        1 slope_filler FillerParameter; 2 bias_filler FillerParameter; 3 momentum float = 0.9; 4 eps float
        = 1e-5; 5 frozen bool = false; 6 engine {_ENGINE}; - scale_filler FillerParameter; - shift_filler
        FillerParameter; - bn_mode {{LEARN=0 INFERENCE=1}} = LEARN; - var_eps float = 1e-9""",
    "CorrelationParameter": """
        2 pad uint32 = 0; 3 kernel_size uint32; 4 max_displacement uint32; 5 stride_1 uint32 = 1; 6
        stride_2 uint32 = 1; 8 single_direction int32 = 0; 7 do_abs bool = false; 15 correlation_type
        {MULTIPLY=0 SUBTRACT=1} = MULTIPLY""",
    "Convolution3DParameter": """
        - num_output uint32; - bias_term bool = true; - pad uint32 = 0; - temporal_pad uint32 = 0; -
        kernel_size uint32; - kernel_depth uint32 = 1; - group uint32 = 1; - stride uint32 = 1; -
        temporal_stride uint32 = 1; - weight_filler FillerParameter; - bias_filler FillerParameter""",
    "InterpParameter": """
        1 height int32 = 0; 2 width int32 = 0; 3 zoom_factor int32 = 1; 4 shrink_factor int32 = 1; 5
        pad_beg int32 = 0; 6 pad_end int32 = 0""",
    "LSTMParameter": """
        1 num_output uint32; 2 clipping_threshold float = 0; 3 weight_filler FillerParameter; 4
        bias_filler FillerParameter; 5 batch_size uint32 = 1""",
    "Pooling3DParameter": f"""
        - pool {_POOL}; - kernel_size uint32; - kernel_depth uint32 = 1; - stride uint32 = 1; -
        temporal_stride uint32 = 1; - pad uint32 = 0; - temporal_pad uint32 = 0""",
    "ProposalParameter": """
        - feat_stride uint32 = 16; - base_size uint32 = 16; - min_size uint32 = 16; - ratio float*; -
        scale float*; - pre_nms_topn uint32 = 6000; - post_nms_topn uint32 = 300; - nms_thresh float = 0.7""",
    "PSROIPoolingParameter": "1 spatial_scale float; 2 output_dim int32; 3 group_size int32",
    "RegionParameter": """
        1 classes uint32 = 20; 2 coords uint32 = 4; 3 boxes_of_each_grid uint32 = 5; 4 softmax bool =
        false""",
    "ReorgParameter": "1 stride uint32; 2 reverse bool = false",
    "ResampleParameter": """
        1 width uint32; 2 height uint32; 3 type {NEAREST=1 LINEAR=2 CUBIC=3 AREA=4} = LINEAR; 4 antialias
        bool = true; 5 factor float = 1""",
    "ROIPoolingParameter": "1 pooled_h uint32 = 0; 2 pooled_w uint32 = 0; 3 spatial_scale float = 1",
    "ShuffleChannelParameter": "1 group uint32 = 1",
    "SmoothL1LossParameter": "1 sigma float = 1",
    "UpsampleParameter": """
        1 scale uint32 = 2; 2 scale_h uint32; 3 scale_w uint32; 4 pad_out_h bool = false; 5 pad_out_w bool
        = false; 6 upsample_h uint32; 7 upsample_w uint32""",
    "YoloDetectionOutputParameter": """
        1 side uint32 = 13; 2 num_classes uint32 = 20; 3 num_box uint32 = 5; 4 coords uint32 = 4; 5
        confidence_threshold float = 0.01; 6 nms_threshold float = 0.45; 7 biases float*; 8 label_map_file
        string""",
    "Yolov3DetectionOutputParameter": """
        1 num_classes uint32 = 20; 2 num_box uint32 = 3; 3 confidence_threshold float = 0.01; 4
        nms_threshold float = 0.45; 5 biases float*; 6 anchors_scale uint32*; 7 mask_group_num uint32 = 2;
        8 mask uint32*""",
}

V1_TYPES: dict[str, str] = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}
"""Spellings of layer types in V1 nets, and their current ones (UpgradeV1LayerType in upgrade_proto.cpp)."""

V0_TYPES: dict[str, str] = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}
"""Spellings of layer types in V0 nets, and their V1 ones (UpgradeV0LayerType in upgrade_proto.cpp)."""

_BLOCKS_OF_FORKS = {
    "BN": "bn_param",
    "Interp": "interp_param",
    "Upsample": "upsample_param",
    "ShuffleChannel": "shuffle_channel_param",
    "ROIPooling": "roi_pooling_param",
    "PSROIPooling": "psroi_pooling_param",
    "Permute": "permute_param",
    "PriorBox": "prior_box_param",
    "DetectionOutput": "detection_output_param",
    "Normalize": "norm_param",
    "Reorg": "reorg_param",
    "Region": "region_param",
    "Yolov3DetectionOutput": "yolov3_detection_output_param",
    "YoloDetectionOutput": "yolo_detection_output_param",
    "Correlation": "correlation_param",
    "Resample": "resample_param",
    "Lstm": "lstm_param",
}


def block_of_type(layer_type: str) -> FieldSpec | None:
    """Return the parameter block that a fork's layer type carries, whatever number its fork gave the block."""
    name = _BLOCKS_OF_FORKS.get(layer_type)
    return None if name is None else message_spec("LayerParameter").by_name[name]


@cache
def message_spec(name: str) -> MessageSpec:
    """Return the schema of a message; tables are parsed when they are first asked for."""
    fields = [_field(row) for row in _TABLES[name].split(";")]
    by_number = {spec.number: spec for spec in fields if spec.number is not None}
    return MessageSpec(name, {spec.name: spec for spec in fields}, by_number)


_ROW = re.compile(r"(?P<number>\d+|-) (?P<name>\w+) (?P<kind>\w+|\{[^}]*\})(?P<repeated>\*?)(?: = ?(?P<default>\S*))?")


def _field(row: str) -> FieldSpec:
    match = _ROW.fullmatch(" ".join(row.split()))
    if match is None:
        raise SyntaxError(f"bad row in the Caffe schema: {row!r}")
    number = None if match["number"] == "-" else int(match["number"])
    kind = match["kind"]
    if kind.startswith("{"):
        pairs = (item.split("=") for item in kind[1:-1].split())
        enum = {key: int(value) for key, value in pairs}
        return FieldSpec(number, match["name"], Kind.ENUM, bool(match["repeated"]), enum=enum, default=match["default"])
    if kind not in _SCALARS:
        return FieldSpec(number, match["name"], Kind.MESSAGE, bool(match["repeated"]), message=kind)
    default = _default(_SCALARS[kind], match["default"])
    return FieldSpec(number, match["name"], _SCALARS[kind], bool(match["repeated"]), default=default)


def _default(kind: Kind, text: str | None) -> int | float | bool | str | None:
    if text is None or kind in (Kind.STRING, Kind.BYTES):
        return text
    if kind is Kind.BOOL:
        return text == "true"
    return float(text) if kind in (Kind.FLOAT, Kind.DOUBLE) else int(text)
