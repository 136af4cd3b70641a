"""The commands of `kvae`, one file a command or a group of close ones, each with its arguments beside what it does.

A command's file has a function `add`, which adds its parser, and a function that runs it. `kvae.cli` puts the files together.
What is heavy (Keras, TensorFlow, ONNX, the server) is imported when a command runs.
"""
