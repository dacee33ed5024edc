"""The keys of preprocessor_config.json and processor_config.json, with their fates.

The picture settings are the value of `image_processor` in processor_config.json, also if it is
empty; without that key they are preprocessor_config.json. One table for each image processor, one
for each family's own keys of processor_config.json.

source  transformers 5.23: ImageProcessingMixin.get_image_processor_dict, BaseImageProcessor,
        PilBackend, ProcessorMixin and the classes named in the tables
"""

from clear_ref.common.file_keys import Fate, KeyTable, NoEffect, Only, Used

FILE = "preprocessor_config.json"
LIBRARY = "transformers 5.23.0"
UNREAD = "the reference stores the key and never reads it"

COMMON: dict[str, Fate] = {
    "image_processor_type": Used(
        "the image processor; omitted: feature_extractor_type, then config.json's "
        "image_processor_type, then the family's",
        "a processor of another family",
    ),
    "feature_extractor_type": Used("the image processor, without image_processor_type"),
    "processor_class": Used(
        "whose rule counts image tokens; the first found of processor_config.json, this file, "
        "tokenizer_config.json, config.json",
        "a class of another family",
    ),
    "auto_map": NoEffect("a directory's own code is never run"),
    "do_resize": Used("resize or not"),
    "size": Used("the size after the resize", "fractions of a pixel"),
    "default_to_square": Used("a size of one number: both sides, or the shorter side"),
    "resample": Used("the filter of the resize, as Pillow counts filters", "names"),
    "do_rescale": Used("multiply by rescale_factor or not"),
    "rescale_factor": Used("the factor of do_rescale"),
    "do_normalize": Used("subtract image_mean and divide by image_std, or not"),
    "image_mean": Used("mean of do_normalize: one number, or one for each channel"),
    "image_std": Used(
        "standard deviation of do_normalize: one number, or one for each channel", "0 and below"
    ),
    "do_convert_rgb": Only(
        (True,), "pictures that are not RGB would keep their own channels; remove the key"
    ),
    "data_format": NoEffect("the Pillow path writes channels first"),
    "input_data_format": NoEffect("a Pillow picture has an order of its own"),
    "device": NoEffect("the Pillow path computes on the CPU"),
    "return_tensors": NoEffect("the container of the result, not its values"),
    "disable_grouping": NoEffect("pictures are computed one by one"),
    "image_seq_length": NoEffect("image tokens are counted by the processor class"),
    "model_input_names": NoEffect("a list of names"),
    "_valid_processor_keys": NoEffect("a list of names"),
    "__dict__": Only((), "the reference would replace all settings by it"),
}
CROP: dict[str, Fate] = {
    "do_center_crop": Used("cut out the centre or not"),
    "crop_size": Used("the size of the centre", "fractions of a pixel"),
}
NO_CROP = NoEffect("Qwen2VLImageProcessor neither crops nor pads")

CLIP = KeyTable(
    FILE,
    "CLIPImageProcessor (llava)",
    f"{LIBRARY}, CLIPImageProcessorPil",
    COMMON
    | CROP
    | {
        "do_pad": Used("no effect on pictures of one size", "true beside pad_size"),
        "pad_size": Used("see do_pad"),
        "use_square_size": Only(
            (False, None), "the reference then resizes to 224 x 224; write it as size"
        ),
    },
    UNREAD,
)
LLAVA = KeyTable(
    FILE,
    "LlavaImageProcessor (llava)",
    f"{LIBRARY}, LlavaImageProcessorPil",
    COMMON
    | CROP
    | {
        "do_pad": Used("first pad to a square with the colour image_mean", "a mean outside 0 to 1"),
        "pad_size": NoEffect("the square has the longer side"),
    },
    UNREAD,
)
QWEN2_VL = KeyTable(
    FILE,
    "Qwen2VLImageProcessor (qwen2_vl, qwen2_5_vl)",
    f"{LIBRARY}, Qwen2VLImageProcessorPil",
    COMMON
    | {
        "size": Used("shortest_edge and longest_edge: least and greatest area in pixels"),
        "min_pixels": Used("the least area in pixels, before size", "above max_pixels"),
        "max_pixels": Used("the greatest area in pixels, before size"),
        "patch_size": Used("side of a patch in pixels", "another than config.json's"),
        "temporal_patch_size": Used("frames in a patch", "another than config.json's"),
        "merge_size": Used(
            "side, in patches, of the block that becomes one token", "another than config.json's"
        ),
        "default_to_square": NoEffect("a size of one number is an error"),
        "do_center_crop": NO_CROP,
        "crop_size": NO_CROP,
        "do_pad": NO_CROP,
        "pad_size": NO_CROP,
    },
    UNREAD,
)

PROCESSOR_FILE = "processor_config.json"
PROCESSOR: dict[str, Fate] = {
    "processor_class": Used("whose rule counts image tokens", "a class of another family"),
    "image_processor": Used("all picture settings, instead of preprocessor_config.json"),
    "video_processor": NoEffect("no videos"),
    "tokenizer": NoEffect("the tokenizer is in its own files"),
    "chat_template": Used("a chat template; see the templates' keys"),
    "auto_map": NoEffect("a directory's own code is never run"),
    "audio_tokenizer": Only((), "the reference would load another model"),
}
LLAVA_PROCESSOR = KeyTable(
    PROCESSOR_FILE,
    "llava",
    f"{LIBRARY}, LlavaProcessor",
    PROCESSOR
    | {
        "patch_size": Used(
            "number of image tokens; omitted: config.json's",
            "a number of tokens that is not that of the model's image features",
        ),
        "num_additional_image_tokens": Used("added to the number of image tokens; 0 if omitted"),
        "vision_feature_select_strategy": Used("default: one image token less"),
        "image_token": Only(("<image>",), "it is the image token of LLaVA's chat templates"),
    },
    "LlavaProcessor has no such argument; picture settings outside image_processor are ignored",
)
QWEN2_VL_PROCESSOR = KeyTable(
    PROCESSOR_FILE,
    "qwen2_vl, qwen2_5_vl",
    f"{LIBRARY}, Qwen2VLProcessor, Qwen2_5_VLProcessor",
    PROCESSOR,
    "the processor has no such argument; picture settings outside image_processor are ignored",
)

TABLES = (CLIP, LLAVA, QWEN2_VL, LLAVA_PROCESSOR, QWEN2_VL_PROCESSOR)
