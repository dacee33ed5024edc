"""The first stage at which another implementation's dump differs."""
