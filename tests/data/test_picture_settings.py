"""The picture settings of a model directory: where they are, what each key does, what is refused.

By hand, without the parity extra; test_picture_differential.py compares with transformers.
"""

import json

import numpy as np
import pytest
from PIL import Image

from clear_ref.common.errors import UserError
from clear_ref.data.clip_images import (
    ClipImages,
    bounded_sides,
    centre_crop,
    inside_box,
    shorter_side,
)
from clear_ref.data.picture_settings import MEAN, STD
from clear_ref.data.qwen_images import Qwen2VLImages

# A LLaVA whose tower takes 24 x 24 pixels in patches of 6: 16 features.
SIDE = 24
N_FEATURES = 16
BASE = {
    "size": {"shortest_edge": SIDE},
    "crop_size": SIDE,
    "image_processor_type": "CLIPImageProcessor",
}
RED = Image.new("RGB", (48, 24), (255, 0, 51))


def llava(directory, settings=None, processor=None, **others):
    """The image processor of a directory with these files."""
    files = {"preprocessor_config": settings, "processor_config": processor, **others}
    for name, values in files.items():
        if values is not None:
            (directory / f"{name}.json").write_text(json.dumps(values))
    return ClipImages.from_directory(directory, SIDE, N_FEATURES)


class TestPlaces:
    def test_the_image_part_of_processor_config_is_taken_before_the_other_file(self, tmp_path):
        nested = BASE | {"image_mean": [0.5] * 3}
        images = llava(tmp_path, BASE | {"image_mean": [0.1] * 3}, {"image_processor": nested})
        assert images.values.mean == (0.5, 0.5, 0.5)

    def test_keys_are_not_mixed_from_both_files(self, tmp_path):
        """The nested part is alone, and its omitted mean is that of the class."""
        images = llava(tmp_path, BASE | {"image_mean": [0.1] * 3}, {"image_processor": BASE})
        assert images.values.mean == MEAN

    def test_an_empty_image_part_counts_and_null_does_not(self, tmp_path):
        """Empty: all values of the class, whose crop of 224 pixels does not fit this model."""
        assert llava(tmp_path, BASE, {"image_processor": None}).side == SIDE
        with pytest.raises(UserError, match="crop_size is 224 x 224 pixels; expected 24 x 24"):
            llava(tmp_path, BASE, {"image_processor": {}})

    def test_picture_settings_outside_the_image_part_are_ignored_as_in_the_reference(
        self, tmp_path
    ):
        assert llava(tmp_path, BASE, {"image_mean": [0.1] * 3}).values.mean == MEAN

    def test_qwens_grid_follows_the_image_part(self, tmp_path):
        """600 x 450 pixels with at most 100,352: sqrt(270000 / 100352) = 1.64; 9 x 13 blocks."""
        (tmp_path / "preprocessor_config.json").write_text('{"max_pixels": 12845056}')
        (tmp_path / "processor_config.json").write_text(
            '{"image_processor": {"max_pixels": 100352}}'
        )
        found = Qwen2VLImages.from_directory(tmp_path)(Image.new("RGB", (600, 450)))
        assert found.grid == (1, 18, 26) and found.n_tokens == 117

    def test_no_settings_at_all_are_an_error(self, tmp_path):
        with pytest.raises(UserError, match="preprocessor_config.json"):
            llava(tmp_path, None, {"patch_size": 6})

    @pytest.mark.parametrize("values", ["all", [1], 5])
    def test_an_image_part_that_is_no_object_is_an_error(self, tmp_path, values):
        with pytest.raises(UserError, match="processor_config.json, image_processor is"):
            llava(tmp_path, BASE, {"image_processor": values})


class TestClasses:
    @pytest.mark.parametrize("ending", ["", "Pil", "Fast"])
    @pytest.mark.parametrize("name", ["CLIP", "Llava"])
    def test_endings_name_ways_to_compute(self, tmp_path, name, ending):
        assert llava(tmp_path, BASE | {"image_processor_type": f"{name}ImageProcessor{ending}"})

    @pytest.mark.parametrize("name", ["SiglipImageProcessor", "Qwen2VLImageProcessor", "x", 3])
    def test_another_class_is_refused(self, tmp_path, name):
        with pytest.raises(UserError, match="image_processor_type is .*; expected LlavaImage"):
            llava(tmp_path, BASE | {"image_processor_type": name})

    def test_without_a_class_the_old_name_counts_then_config_json_then_the_familys(self, tmp_path):
        """Only LLaVA's class pads to a square; do_pad tells the two apart."""
        settings = {key: BASE[key] for key in ("size", "crop_size")} | {"do_pad": True}
        assert llava(tmp_path, settings).padding == (122, 116, 104)
        old = settings | {"feature_extractor_type": "CLIPFeatureExtractor"}
        assert llava(tmp_path, old).padding is None
        config = {"image_processor_type": "CLIPImageProcessor"}
        assert llava(tmp_path, settings, config=config).padding is None

    @pytest.mark.parametrize(
        "files, message",
        [
            ({"processor": {"processor_class": "LlavaNextProcessor"}}, "/processor_config.json: "),
            ({"settings": {"processor_class": "CLIPProcessor"}}, "preprocessor_config.json: "),
            ({"tokenizer_config": {"processor_class": "X"}}, "tokenizer_config.json: "),
            ({"config": {"processor_class": "X"}}, "/config.json: processor_class is 'X'"),
        ],
    )
    def test_another_processor_class_is_refused_where_it_is_found(self, tmp_path, files, message):
        files = files | {"settings": BASE | files.get("settings", {})}
        with pytest.raises(UserError, match=message) as caught:
            llava(tmp_path, **files)
        assert "expected LlavaProcessor" in str(caught.value)

    def test_a_class_in_the_image_part_counts_only_beside_the_other_file(self, tmp_path):
        """As in the reference, which looks for that file first."""
        nested = {"image_processor": BASE | {"processor_class": "X"}}
        assert llava(tmp_path, None, nested)
        with pytest.raises(UserError, match="processor_class is 'X'"):
            llava(tmp_path, BASE, nested)

    def test_the_first_processor_class_decides(self, tmp_path):
        right = {"processor_class": "LlavaProcessor"}
        assert llava(tmp_path, BASE, right, config={"processor_class": "X"})


class TestSizes:
    @pytest.mark.parametrize(
        "change",
        [
            {"size": SIDE},
            {"size": {"shortest_edge": SIDE, "longest_edge": None}},
            {"size": {"shortest_edge": 30}, "crop_size": [SIDE, SIDE]},
            {"size": [SIDE, SIDE], "do_center_crop": False},
            {"size": SIDE, "default_to_square": True, "do_center_crop": None},
            {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False},
            {"size": {"max_height": SIDE, "max_width": 99}},
            {"size": {"shortest_edge": 11}},
            {"do_resize": False, "size": None},
        ],
    )
    def test_every_form_of_a_size(self, tmp_path, change):
        assert llava(tmp_path, BASE | change)(RED).pixels.shape == (3, SIDE, SIDE)

    @pytest.mark.parametrize(
        "change, key",
        [
            *(({"size": size}, "size") for size in (None, {}, 0, True, 24.0, {"longest_edge": 9})),
            ({"size": {"height": 24, "width": 24, "shortest_edge": 9}}, "size"),
            ({"size": {"min_pixels": 9, "max_pixels": 99}}, "size"),
            ({"size": 1 << 16}, "size"),
            *(({"crop_size": crop}, "crop_size") for crop in (None, 20, {"shortest_edge": 24})),
            ({"crop_size": {"height": 24, "width": 20}}, "crop_size"),
            *(({"resample": name}, "resample") for name in ("bicubic", None, True, 3.0, 99, -1)),
            *(({key: "true"}, key) for key in ("do_resize", "do_rescale", "do_normalize")),
            *(({"rescale_factor": factor}, "rescale_factor") for factor in (None, "1", True)),
            *(({"image_mean": mean}, "image_mean") for mean in (None, [0.5], "half", [1, 2, "3"])),
            *(({"image_std": std}, "image_std") for std in (None, 0, [1, 1, -1], [1, 1, 1, 1])),
            *(({"do_convert_rgb": flag}, "do_convert_rgb") for flag in (False, None)),
            ({"use_square_size": True}, "use_square_size"),
            ({"do_pad": True, "pad_size": 40}, "pad_size"),
            ({"__dict__": {}}, "__dict__"),
        ],
    )
    def test_what_is_not_computed_is_refused_by_name(self, tmp_path, change, key):
        with pytest.raises(UserError, match=rf"preprocessor_config.json: {key} is ") as caught:
            llava(tmp_path, BASE | change)
        assert "\n" not in str(caught.value) and "expected" in str(caught.value)

    def test_a_picture_that_does_not_fit_the_model_is_refused(self, tmp_path):
        images = llava(tmp_path, BASE | {"do_center_crop": False})
        with pytest.raises(UserError, match="picture is 48 x 24 .* make it 48 x 24; expected 24"):
            images(RED)
        assert images(RED.resize((30, 30))).pixels.shape == (3, SIDE, SIDE)

    def test_a_picture_of_which_nothing_is_left_is_refused(self, tmp_path):
        images = llava(tmp_path, BASE | {"size": {"max_height": 9, "max_width": 9}})
        with pytest.raises(UserError, match="picture is 100 x 2 pixels; size .* leaves no pixel"):
            images(Image.new("RGB", (100, 2)))

    def test_sides_by_hand(self):
        """100 high, 60 wide. Shorter side 24: 24 * 100 / 60 = 40. At most 30 long: 24 becomes
        30 * 60 / 100 = 18. At most 31: 18.6, so 19 wide and int(18.6 * 100 / 60) = 31 high. Inside
        50 x 40: the scale is min(0.5, 0.67).
        """
        assert shorter_side(100, 60, 24) == (40, 24) and shorter_side(60, 100, 24) == (24, 40)
        assert bounded_sides(100, 60, 24, 30) == (30, 18)
        assert bounded_sides(100, 60, 24, 31) == (31, 19)
        assert bounded_sides(100, 60, 24, 40) == (40, 24)
        assert bounded_sides(100, 60, 60, 200) == (100, 60)
        assert inside_box(100, 60, 50, 40) == (50, 30)

    def test_a_crop_larger_than_the_picture_is_padded_with_zeros(self):
        """2 x 3 ones in 5 x 5: two rows above, one row below; one column on each side."""
        found = centre_crop(np.ones((2, 3, 3), np.uint8), 5, 5)[:, :, 0]
        expected = np.zeros((5, 5))
        expected[2:4, 1:4] = 1
        assert (found == expected).all()


class TestValues:
    def test_each_step_can_be_left_out(self, tmp_path):
        """Red of RED is 255, blue is 51."""
        off = {"do_rescale": False, "do_normalize": False}
        means = {"image_mean": 0.5, "image_std": [0.5, 1, 0.25]}
        for change, red, blue in (
            (off, 255.0, 51.0),
            ({**off, "do_rescale": True}, 1.0, 0.2),
            ({**off, "do_rescale": True, "rescale_factor": 2}, 510.0, 102.0),
            (means, 1.0, (0.2 - 0.5) / 0.25),
            ({**means, "do_rescale": None}, 254.5 / 0.5, 50.5 / 0.25),
            ({}, (1 - MEAN[0]) / STD[0], (0.2 - MEAN[2]) / STD[2]),
        ):
            pixels = llava(tmp_path, BASE | change)(RED).pixels
            assert pixels.dtype.is_floating_point
            assert abs(float(pixels[0, 3, 3]) - red) <= 1e-5 * max(1, abs(red))
            assert abs(float(pixels[2, 3, 3]) - blue) <= 1e-5 * max(1, abs(blue))

    def test_every_filter_of_pillow_is_its_number(self, tmp_path):
        noise = np.random.default_rng(1).integers(0, 256, (70, 50, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        off = {"do_rescale": False, "do_normalize": False, "do_center_crop": False}
        for number in range(6):
            found = llava(tmp_path, BASE | off | {"size": [SIDE, SIDE], "resample": number})(image)
            expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling(number)))
            assert (found.pixels.numpy().transpose(1, 2, 0) == expected).all()


class TestPadding:
    PAD = BASE | {"image_processor_type": "LlavaImageProcessor", "do_pad": True}

    def test_llavas_class_pads_to_a_square_with_the_mean_colour(self, tmp_path):
        """48 x 24 in 48 x 48: 12 rows of the colour above and below; half of that after the resize.

        int(0.5 * 255) = 127, int(0 * 255) = 0, int(1 * 255) = 255. Nearest: no mixed rows.
        """
        settings = self.PAD | {
            "image_mean": [0.5, 0, 1],
            "do_normalize": False,
            "do_rescale": False,
            "resample": 0,
        }
        pixels = llava(tmp_path, settings)(RED).pixels
        rows = pixels[:, :, 5].T.tolist()
        assert rows == [[127, 0, 255]] * 6 + [[255, 0, 51]] * 12 + [[127, 0, 255]] * 6

    def test_an_odd_rest_is_below_and_on_the_right(self, tmp_path):
        settings = self.PAD | {"image_mean": [1, 1, 1], "do_resize": False, "crop_size": SIDE}
        settings |= {"do_normalize": False, "do_rescale": False}
        black = llava(tmp_path, settings)(Image.new("RGB", (SIDE, 21))).pixels[0]
        assert [bool(row.any()) for row in black] == [True] + [False] * 21 + [True] * 2

    def test_a_missing_mean_pads_black_if_nothing_is_normalised(self, tmp_path):
        settings = self.PAD | {"image_mean": None, "do_normalize": False}
        assert llava(tmp_path, settings).padding == (0, 0, 0)

    @pytest.mark.parametrize("mean", [0.5, [0.5, 1.01, 0.5], [0.5, -0.1, 0.5]])
    def test_a_mean_that_is_no_colour_is_refused(self, tmp_path, mean):
        with pytest.raises(UserError, match="image_mean is .*because do_pad is true"):
            llava(tmp_path, self.PAD | {"image_mean": mean})

    def test_clips_class_has_no_padding_to_a_square(self, tmp_path):
        assert llava(tmp_path, BASE | {"do_pad": True}).padding is None


class TestTokens:
    """16 features; the processor counts (24 // patch_size)^2 + additional tokens - 1 if default."""

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"patch_size": None, "num_additional_image_tokens": 7},
            {"patch_size": 6},
            {"patch_size": 6, "vision_feature_select_strategy": "full"},
            {
                "patch_size": 6,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            },
            {
                "patch_size": 7,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 8,
            },
        ],
    )
    def test_settings_that_count_the_models_features(self, tmp_path, values):
        assert llava(tmp_path, BASE, values)(RED).n_tokens == 16

    @pytest.mark.parametrize(
        "values, found",
        [
            ({"patch_size": 4}, 36),
            ({"patch_size": 6, "num_additional_image_tokens": 1}, 17),
            ({"patch_size": 6, "vision_feature_select_strategy": "default"}, 15),
        ],
    )
    def test_another_number_is_refused(self, tmp_path, values, found):
        with pytest.raises(UserError, match=f"make {found} image tokens; expected 16"):
            llava(tmp_path, BASE, values)

    @pytest.mark.parametrize("value", [6.0, "6", 0, True])
    def test_a_patch_size_that_is_no_whole_number_is_refused(self, tmp_path, value):
        with pytest.raises(UserError, match="patch_size is .*; expected a whole number"):
            llava(tmp_path, BASE, {"patch_size": value})

    @pytest.mark.parametrize(
        "values", [{"image_token": "<pic>"}, {"audio_tokenizer": {"x": 1}}, {"image_token": None}]
    )
    def test_other_tokens_are_refused(self, tmp_path, values):
        with pytest.raises(UserError, match=f"processor_config.json: {next(iter(values))} is"):
            llava(tmp_path, BASE, values)


class TestQwen:
    def read(self, directory, settings):
        (directory / "preprocessor_config.json").write_text(json.dumps(settings))
        return Qwen2VLImages.from_directory(directory)

    def test_without_a_resize_the_sides_must_be_multiples(self, tmp_path):
        images = self.read(tmp_path, {"do_resize": False})
        assert images(Image.new("RGB", (56, 84))).grid == (1, 6, 4)
        with pytest.raises(UserError, match="56 x 83 pixels, and do_resize .* multiples of 28"):
            images(Image.new("RGB", (56, 83)))

    def test_fractions_are_bounds_as_in_the_reference(self, tmp_path):
        images = self.read(tmp_path, {"min_pixels": 784.5, "max_pixels": 7840.0})
        assert (images.min_pixels, images.max_pixels) == (784.5, 7840.0)

    def test_a_null_is_no_default(self, tmp_path):
        for key in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "resample"):
            with pytest.raises(UserError, match=f"{key} is None"):
                self.read(tmp_path, {key: None})
        assert self.read(tmp_path, {"min_pixels": None, "size": None}).min_pixels == 3136
