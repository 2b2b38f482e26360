"""Limits of what is read of one file, looked up in its header before anything is decoded.

A few bytes can announce gigabytes. These bounds are far beyond what the networks make use of, so nobody should have to
raise them; who does so changes them here. Videos may be of any length: they are read as streams.
"""

# Side in pixels of what a network sees or masks are scored at.
MAX_SIDE = 8192
# Of an image, and of each frame of a video: twice as many as 8K video has.
MAX_PIXELS = MAX_SIDE**2
# Of an audio file that is read at once: samples over all channels, and samples at 16 kHz, which is 2.3 hours.
MAX_SAMPLES = 2**27
MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 768_000
# Products of the reduced sample rates, which is what resampling takes memory for: 44.1 kHz has 441 x 160.
MAX_RESAMPLING = 2**24
# Of a log-mel pickle; AVSBench's hold 5 or 10 seconds of 25 kB.
MAX_LOG_MEL_BYTES = 2**24
# Of each of the texts that describe a shared model; a config takes 20 kB, metrics by class as much.
MAX_ABOUT_BYTES = 2**20
# Of the weights in a wheel.
MAX_WHEEL_BYTES = 2**30
