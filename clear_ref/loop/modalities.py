"""What is trained on: pictures, texts or both."""

# {modality: name of the config of a split}
MODALITIES = {"both": "{}+tofu", "visual": "{}", "text": "tofu/{}"}
