"""Every configuration key that transavs adds to detectron2's, with its default and the paper's symbol."""

from detectron2.config import CfgNode as CN

# What keys were called before: a config that still has one is refused with its new name.
RENAMED_KEYS = {
    "MODEL.CHECKPOINT_MODULES": "MODEL.ACTIVATION_CHECKPOINTING",
    "MODEL.TRANSAVS.DELTA_1": "MODEL.TRANSAVS.AQDL_THRESHOLD",
    "MODEL.TRANSAVS.DELTA_2": "MODEL.TRANSAVS.AQML_THRESHOLD",
    "MODEL.TRANSAVS.DELTA_STEPS": "MODEL.TRANSAVS.THRESHOLD_STEPS",
    "MODEL.TRANSAVS.DELTA_PERIOD": "MODEL.TRANSAVS.THRESHOLD_PERIOD",
    "MODEL.TRANSAVS.SHARPNESS": "MODEL.TRANSAVS.SMOOTH_MAX_EXPONENT",
    "TEST.FRAMES_AT_ONCE": "TEST.FRAMES_PER_CHUNK",
}


def add_transavs_config(cfg: CN) -> None:
    """Add the keys of transavs to a detectron2 config, in place."""
    _add_data_config(cfg)
    _add_backbone_config(cfg)
    _add_query_config(cfg)
    _add_criterion_config(cfg)
    _add_tpavi_config(cfg)
    _add_solver_config(cfg)
    _add_logging_config(cfg)
    for old, new in RENAMED_KEYS.items():
        cfg.register_renamed_key(old, new)


def _add_data_config(cfg: CN) -> None:
    # Sets that are evaluated every TEST.EVAL_PERIOD iterations, under the true audio: the weights that are best on the
    # first of them, by mIoU where there are several classes and by J elsewhere, are kept as model_best.pth and tested
    # at the end. Empty: DATASETS.TEST is evaluated in their place, and the last weights count.
    cfg.DATASETS.VAL = ()
    # Frames of the longest clip, one per second: T.
    cfg.INPUT.NUM_FRAMES = 5
    # Side of the square network input in pixels; scoring is done at the masks' own size.
    cfg.INPUT.IMAGE_SIZE = 224
    # Labeled frames that training draws from each clip, 0 = all of them. The frames of a clip are much alike: a few of
    # many clips teach more than all of a few.
    cfg.INPUT.TRAIN_FRAMES = 0
    # Objects, connected parts of one class, that are told apart in a frame's ground truth: the largest ones.
    cfg.INPUT.MAX_OBJECTS = 8
    # Smallest and largest factor that the frames of a training clip are scaled by, to be cropped at random, or padded,
    # back to IMAGE_SIZE; 1 and 1 = none.
    cfg.INPUT.SCALE_JITTER = [1.0, 1.0]
    # Brightness, contrast and saturation of a training clip change by a factor from 1 - this to 1 + this; 0 = none.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Share of training clips whose audio is replaced and whose target is emptied, and by what, in equal parts:
    # "silence", "noise" and "offscreen", the audio of a clip in which nothing sounds that is in view.
    cfg.INPUT.NEGATIVE_AUDIO_PROB = 0.0
    cfg.INPUT.NEGATIVE_AUDIO = ["silence", "noise", "offscreen"]
    # Audio of each test run: "true" (gives J and F), "shuffled" (another clip's, J_shuffled), "silence" (J_silence),
    # "noise" (J_noise), "offscreen" (J_offscreen).
    cfg.TEST.AUDIO_CONDITIONS = ["true"]
    # Side in pixels of the square masks that are scored, 0 = each clip's own size.
    cfg.TEST.SCORE_SIZE = 0
    # Frames that pass through the network together in inference, which bounds its memory.
    cfg.TEST.FRAMES_PER_CHUNK = 10
    # What the network computes in when it is evaluated: "float32", or under autocast "bfloat16" or "float16", the
    # latter on GPUs alone. Scores and metrics are float32 and float64 all the same.
    cfg.TEST.PRECISION = "float32"
    # TEST.AUG, of detectron2, averages probabilities: over these sides in pixels that the network's square input is
    # scaled to, () = INPUT.IMAGE_SIZE alone; and with FLIP over mirrored frames too. Validation goes without.
    cfg.TEST.AUG.MIN_SIZES = ()
    # Folder in which decoded and resized clips are kept, a file each, for any number of workers and runs; "" decodes
    # them anew in every epoch. Nothing is ever removed from it.
    cfg.DATALOADER.CLIP_CACHE = ""
    # A clip that cannot be read: "stop" the run, or "skip" it with a warning; training takes the next one in its place,
    # and evaluation leaves it out and says how many it left out.
    cfg.DATALOADER.ON_BROKEN_CLIP = "stop"
    # Refuse what AVSBench's own loaders take, see transavs/data/repairs.py: masks of another size, missing frames and
    # masks in training, short audio.
    cfg.DATALOADER.STRICT = False
    # Predictions to keep in OUTPUT_DIR/inference, see transavs/evaluation/prediction_writer.py: "rle" (JSON), "coco"
    # (a COCO data set), "png" (masks or class ids), "probabilities" (gray levels).
    cfg.TEST.SAVE_PREDICTIONS = []
    # Clips in the figure that an evaluation draws into OUTPUT_DIR; 0 draws none.
    cfg.TEST.FIGURE_CLIPS = 6


def _add_backbone_config(cfg: CN) -> None:
    # Channels of res2 ... res5 of build_basic_resnet_backbone.
    cfg.MODEL.RESNETS.BASIC_CHANNELS = [32, 64, 128, 256]

    # build_timm_backbone: a timm model by name; weights by that name (fetched) or from a file.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "swin_base_patch4_window7_224.ms_in22k"
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Rate of stochastic depth; 0 leaves the model's own default.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
    # Leading stages, with what comes before them, that are not trained. In a plain ViT each block is a stage.
    cfg.MODEL.TIMM.FROZEN_STAGES = 0
    # Norm of each feature that the backbone gives, for models that leave theirs without one, such as Swin: "LN" or "".
    cfg.MODEL.TIMM.OUT_NORM = ""
    # Factor of the learning rate from each layer to the one before it, for ViTs and Hiera; 1 = the same for all.
    cfg.MODEL.TIMM.LAYER_DECAY = 1.0

    # Names of modules whose activations are computed again in the backward pass, "*" for any characters, such as
    # ["backbone.res?.*", "query_decoder.decoder.*"]: less memory, more time.
    cfg.MODEL.ACTIVATION_CHECKPOINTING = []

    # Backend of torch.compile for the network in training, such as "inductor"; "" = none.
    cfg.MODEL.COMPILE = ""

    cfg.MODEL.AUDIO_BACKBONE = CN()
    # Name in AUDIO_BACKBONE_REGISTRY.
    cfg.MODEL.AUDIO_BACKBONE.NAME = "VGGish"
    # Weights of the audio backbone alone: the path or URL of a state dict; of AST, CLAP and AudioMAE also a folder with
    # config.json, or the name of a model on Hugging Face's hub. Loaded whether or not it is frozen. "" = random.
    cfg.MODEL.AUDIO_BACKBONE.WEIGHTS = ""
    # Keep the audio backbone as loaded: no gradient, evaluation mode.
    cfg.MODEL.AUDIO_BACKBONE.FREEZE = True
    # Folder in which the embeddings of a frozen audio backbone are kept, one file per clip, as CLIP_CACHE keeps clips;
    # "" computes them anew.
    cfg.MODEL.AUDIO_BACKBONE.EMBEDDING_CACHE = ""
    # AST, CLAP and AudioMAE: seconds of sound before and after each second that its embedding is made of too. 4.62
    # makes 10.24 s, which AST and AudioMAE were trained with, and 4.5 makes CLAP's 10 s.
    cfg.MODEL.AUDIO_BACKBONE.CONTEXT = 0.0
    # The same three: what differs from the published base model, under the names of transformers' ASTConfig and
    # ClapAudioConfig, and of timm's VisionTransformer. It stands here so that a checkpoint carries it.
    cfg.MODEL.AUDIO_BACKBONE.OPTIONS = CN(new_allowed=True)
    # Channels of the audio embedding of VGGish and SmallAudioNet.
    cfg.MODEL.AUDIO_BACKBONE.EMBED_DIM = 128
    # SmallAudioNet: channels of its convolutions, each at half the resolution of the one before; and their norm.
    cfg.MODEL.AUDIO_BACKBONE.SMALL_CHANNELS = [16, 32, 64, 128]
    cfg.MODEL.AUDIO_BACKBONE.SMALL_NORM = "naiveSyncBN_N"


def _add_query_config(cfg: CN) -> None:
    # Name of the pixel decoder in SEM_SEG_HEADS_REGISTRY: "FPNPixelDecoder", or Mask2Former's,
    # "MSDeformAttnPixelDecoder", which costs more.
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "FPNPixelDecoder"

    # MSDeformAttnPixelDecoder, with Mask2Former's numbers: layers, heads, channels of the feed-forward networks, and
    # points that each head looks at in each level.
    cfg.MODEL.MSDEFORMATTN = CN()
    cfg.MODEL.MSDEFORMATTN.ENC_LAYERS = 6
    cfg.MODEL.MSDEFORMATTN.NHEADS = 8
    cfg.MODEL.MSDEFORMATTN.DIM_FEEDFORWARD = 1024
    cfg.MODEL.MSDEFORMATTN.NUM_POINTS = 4

    cfg.MODEL.TRANSAVS = CN()
    # Name in TRANSFORMER_DECODER_REGISTRY.
    cfg.MODEL.TRANSAVS.TRANSFORMER_DECODER_NAME = "AudioQueryDecoder"
    # N audio queries of d = HIDDEN_DIM channels.
    cfg.MODEL.TRANSAVS.NUM_OBJECT_QUERIES = 300
    cfg.MODEL.TRANSAVS.HIDDEN_DIM = 256
    # N_1 layers of self-attention over the queries, N_2 of cross-attention to the image: the levels twice in turn.
    cfg.MODEL.TRANSAVS.ENC_LAYERS = 1
    cfg.MODEL.TRANSAVS.DEC_LAYERS = 6
    cfg.MODEL.TRANSAVS.NHEADS = 8
    cfg.MODEL.TRANSAVS.DIM_FEEDFORWARD = 1024
    cfg.MODEL.TRANSAVS.DROPOUT = 0.0
    # Which seconds W_1 mixes into the queries of a frame: "frame" = those around the frame, "clip" = all T (eq. (1)).
    cfg.MODEL.TRANSAVS.QUERY_MODE = "frame"
    # Seconds on each side of the frame's own that "frame" sees.
    cfg.MODEL.TRANSAVS.AUDIO_CONTEXT = 0
    # Deviation at the start of the learned content that each query adds to what it hears; 0 leaves it out, as eq. (1).
    cfg.MODEL.TRANSAVS.QUERY_CONTENT_STD = 0.3
    # Predict and apply the segmentation losses after every decoder layer; of EncoderTransAVS, before every block that
    # the queries enter.
    cfg.MODEL.TRANSAVS.DEEP_SUPERVISION = True
    # EncoderTransAVS: last blocks of the ViT that the queries enter, in place of N_2 layers.
    cfg.MODEL.TRANSAVS.QUERY_BLOCKS = 3


def _add_criterion_config(cfg: CN) -> None:
    # lambda_1 ... lambda_4 of eq. (13); MASK_WEIGHT is that of the focal loss on pixels.
    cfg.MODEL.TRANSAVS.AQDL_WEIGHT = 2.0
    cfg.MODEL.TRANSAVS.AQML_WEIGHT = 2.0
    cfg.MODEL.TRANSAVS.CLASS_WEIGHT = 5.0
    cfg.MODEL.TRANSAVS.MASK_WEIGHT = 5.0
    cfg.MODEL.TRANSAVS.DICE_WEIGHT = 5.0
    # Exponent g of the smooth maximum over queries that the pixel losses act on; 1 = plain sum.
    cfg.MODEL.TRANSAVS.SMOOTH_MAX_EXPONENT = 8.0
    # The pixel losses look at every n-th row and column of the ground truth, from a random offset in each iteration;
    # many classes at full size take much memory.
    cfg.MODEL.TRANSAVS.LOSS_STRIDE = 1
    # Which class, and perhaps which mask of its own, a query is asked for: a rule of
    # transavs/modeling/transavs/query_targets.py.
    cfg.MODEL.TRANSAVS.QUERY_TARGET = "object"
    # Queries that QUERY_TARGET "object" gives to each object.
    cfg.MODEL.TRANSAVS.QUERIES_PER_OBJECT = 3
    # Weights of the focal and Dice loss of a query's own mask, with the rules that give it one.
    cfg.MODEL.TRANSAVS.QUERY_MASK_WEIGHT = 5.0
    cfg.MODEL.TRANSAVS.QUERY_DICE_WEIGHT = 5.0
    # Weight, per decoder layer with losses, and temperature of the contrastive loss between sounding objects and sounds
    # (transavs/modeling/transavs/alignment.py). Weight 0 leaves it out, as the paper does.
    cfg.MODEL.TRANSAVS.ALIGNMENT_WEIGHT = 1.0
    cfg.MODEL.TRANSAVS.ALIGNMENT_TEMPERATURE = 0.1
    # d_0 of eq. (10), and what is added to squared distances before their reciprocal is taken.
    cfg.MODEL.TRANSAVS.AQDL_DISTANCE = 1.0
    cfg.MODEL.TRANSAVS.AQDL_FLOOR = 0.01
    # alpha and gamma of the focal loss (Lin et al. 2017); a negative alpha weights both classes alike.
    cfg.MODEL.TRANSAVS.FOCAL_ALPHA = -1.0
    cfg.MODEL.TRANSAVS.FOCAL_GAMMA = 2.0
    # delta_1 and delta_2 of eq. (18): from a to b in STEPS steps, one every PERIOD iterations, 0 = MAX_ITER / STEPS;
    # a = b keeps them fixed.
    cfg.MODEL.TRANSAVS.AQDL_THRESHOLD = [0.55, 0.65]
    cfg.MODEL.TRANSAVS.AQML_THRESHOLD = [0.55, 0.65]
    cfg.MODEL.TRANSAVS.THRESHOLD_STEPS = 18
    cfg.MODEL.TRANSAVS.THRESHOLD_PERIOD = 0


def _add_tpavi_config(cfg: CN) -> None:
    cfg.MODEL.TPAVI = CN()
    # Levels that interact with the sound, 0 = the finest.
    cfg.MODEL.TPAVI.STAGES = [0, 1, 2, 3]
    # Frames that share one interaction; longer clips are cut into such windows.
    cfg.MODEL.TPAVI.WINDOW = 5
    # Pixels ask the sound, and each other; both are averaged.
    cfg.MODEL.TPAVI.AUDIO_VISUAL = True
    cfg.MODEL.TPAVI.VISUAL_VISUAL = False
    # Bias of the projection of the sound; AVSBench's AVSS model has none.
    cfg.MODEL.TPAVI.AUDIO_BIAS = True
    # Dilations of the summed convolutions of each level, and channels of the head.
    cfg.MODEL.TPAVI.DILATIONS = [3, 6, 12, 18]
    cfg.MODEL.TPAVI.HEAD_CHANNELS = [128, 32]
    # lambda of the AVM loss, 0 leaves it out.
    cfg.MODEL.TPAVI.AVM_WEIGHT = 0.0
    # Towards the sound, "av", or towards the visual vector of the frame that sounds most alike, "vv".
    cfg.MODEL.TPAVI.AVM_FORM = "av"
    # Mask of a level's cells: "soft", the probability of the averaged logits, which gets a gradient, as in AVSBench's
    # MS3 model; "hard", the share of pixels decided for a class, as in its AVSS model.
    cfg.MODEL.TPAVI.AVM_MASK = "soft"
    # "sum" over the frames of the whole batch, as in AVSBench's MS3 code; "mean", as in its AVSS code.
    cfg.MODEL.TPAVI.AVM_REDUCTION = "sum"
    # Two more of the original's quirks: masked features are averaged over the whole image, not over the mask; and they
    # are seen after the decoder's in-place ReLU.
    cfg.MODEL.TPAVI.AVM_OVER_IMAGE = True
    cfg.MODEL.TPAVI.AVM_RECTIFIED = True


def _add_solver_config(cfg: CN) -> None:
    # Learning rate of the visual backbone relative to BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Batches of IMS_PER_BATCH clips (of all ranks together) whose mean gradient makes one step, which is an iteration:
    # that of IMS_PER_BATCH * ACCUMULATE clips at once, but for norms and losses that look at a batch as a whole.
    cfg.SOLVER.ACCUMULATE = 1
    # What SOLVER.AMP.ENABLED computes in: "bfloat16", "float16", whose gradients are scaled, on GPUs alone, or "" for
    # bfloat16 where the device has it, which every CPU does, and else float16.
    cfg.SOLVER.AMP.PRECISION = ""
    # A batch with a loss or gradient that is not finite: "stop" the run, or "skip" the batch with a warning.
    cfg.SOLVER.ON_NON_FINITE = "stop"
    # A batch in which things sound and no clip has any sound: "train" on it with a warning, "skip" it, or "stop".
    cfg.SOLVER.ON_SILENT_BATCH = "train"
    # Batches in a row that may be skipped; at one more the run stops.
    cfg.SOLVER.MAX_SKIPPED_BATCHES = 10
    # Evaluate, and write as the checkpoints' model, an exponential moving average of the weights; after each iteration
    # it is DECAY of itself and 1 - DECAY of the weights.
    cfg.MODEL.EMA = CN()
    cfg.MODEL.EMA.ENABLED = False
    cfg.MODEL.EMA.DECAY = 0.999
    # Used by LR_SCHEDULER_NAME WarmupPolyLR.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0


def _add_logging_config(cfg: CN) -> None:
    # Send what metrics.json holds to Weights & Biases too, which needs "transavs[wandb]".
    cfg.WANDB = CN()
    cfg.WANDB.ENABLED = False
    cfg.WANDB.PROJECT = "transavs"
    # Of the run; "" = that of OUTPUT_DIR.
    cfg.WANDB.NAME = ""
