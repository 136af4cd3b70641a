"""The commands of `kvae`, a file for each command or group of related commands.

A command's file has a function `add`, which adds its parser with its arguments, and a function that
runs it. `kvae.cli` lists the files. Keras, TensorFlow, ONNX and the server are imported when a
command that needs them runs.
"""
