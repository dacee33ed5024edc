"""Every loss again in float64 numpy, sharing no line with losses/ and methods/."""
