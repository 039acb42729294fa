"""PaddleDetection plug-in: E-ConvNeXt backbones, sonar data, a thin engine. Importing it loads no toolkit."""
