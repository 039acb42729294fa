"""PaddleDetection plug-in: E-ConvNeXt backbones, sonar data and a thin engine. Importing it loads neither toolkit nor Paddle."""
