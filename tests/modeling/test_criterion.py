"""The criterion: what the queries say together, which label each gets, and the odd cases."""

from dataclasses import replace

import pytest
import torch

from transavs.engine.hooks import threshold_at
from transavs.modeling.transavs.criterion import AVSCriterion, SegmentationLosses
from transavs.modeling.transavs.semantic_inference import semantic_inference
from transavs.modeling.transavs.smooth_max import smooth_max_log_probs

F, N, K, D = 3, 6, 2, 8


def make_criterion(query_target: str = "majority", **changes) -> AVSCriterion:
    names = ("loss_aqdl", "loss_aqml", "loss_ce", "loss_mask", "loss_dice", "loss_query_mask", "loss_query_dice")
    settings = {
        "segmentation": SegmentationLosses(
            query_target=query_target, queries_per_object=2, focal_alpha=-1.0, focal_gamma=2.0, sharpness=8.0
        ),
        "hidden_dim": D,
        "num_classes": K,
        "max_objects": 3,
        "loss_stride": 1,
        "weights": dict.fromkeys(names, 1.0),
        "aqdl_threshold": 0.5,
        "aqml_threshold": 0.5,
        "aqdl_distance": 1.0,
        "aqdl_floor": 0.01,
    }
    return AVSCriterion(**(settings | changes))


def make_outputs(seed: int = 0, **replaced: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        "audio_queries": torch.randn(F, N, D, generator=generator),
        "pred_logits": torch.randn(F, N, K, generator=generator),
        "pred_masks": torch.randn(F, N, 8, 8, generator=generator),
    }
    return {name: value.requires_grad_() for name, value in (outputs | replaced).items()}


def test_smooth_max_equals_the_power_mean_per_pixel():
    outputs = make_outputs()
    p, m = outputs["pred_logits"].softmax(-1), outputs["pred_masks"].sigmoid()
    for g in (1.0, 3.0):
        log_probs, masks = smooth_max_log_probs(outputs["pred_logits"], outputs["pred_masks"], g)
        scores = log_probs.exp()
        assert torch.equal(masks, m)
        for f, c, y, x in ((0, 0, 0, 0), (1, 1, 3, 5), (2, 1, 7, 2)):
            expected = sum((p[f, i, c] * m[f, i, y, x]).item() ** g for i in range(N)) ** (1 / g)
            assert scores[f, c, y, x].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_gradients_of_smooth_max_equal_those_of_the_formula(sharpness: float, spread: float):
    outputs = make_outputs(pred_masks=spread * torch.randn(F, N, 8, 8, generator=torch.Generator().manual_seed(4)))
    towards = torch.randn(F, K, 8, 8, generator=torch.Generator().manual_seed(5))
    smooth_max_log_probs(outputs["pred_logits"], outputs["pred_masks"], sharpness)[0].backward(towards)
    logits, masks = (outputs[name].detach().double().requires_grad_() for name in ("pred_logits", "pred_masks"))
    terms = logits.log_softmax(-1)[..., None, None] + torch.nn.functional.logsigmoid(masks)[:, :, None]
    ((sharpness * terms).logsumexp(1) / sharpness).backward(towards.double())
    for name, expected in (("pred_logits", logits.grad), ("pred_masks", masks.grad)):
        torch.testing.assert_close(outputs[name].grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_queries_that_are_certain_get_no_gradient_from_what_underflows():
    """A pixel that the background's queries cover for sure: no query is pushed for the class that has no say there."""
    logits = torch.tensor([[30.0, -30.0], [-30.0, 30.0]]).expand(1, 2, K).clone().requires_grad_()
    masks = torch.tensor([40.0, -40.0])[None, :, None, None].expand(1, 2, 2, 2).clone().requires_grad_()
    scores, _ = smooth_max_log_probs(logits, masks, 8.0)
    assert scores[:, 1].max() < -10 < -1e-3 < scores[:, 0].min()
    scores[:, 1].sum().backward()
    assert logits.grad.abs().max() == 0
    assert masks.grad.abs().max() == 0


def test_the_backward_pass_of_a_layer_keeps_the_masks_and_their_powers():
    outputs = make_outputs(
        pred_logits=torch.randn(F, 40, K), pred_masks=torch.randn(F, 40, 32, 32), audio_queries=torch.randn(F, 40, D)
    )
    masks = torch.randint(K, (F, 32, 32))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    criterion = make_criterion("object")
    truth = criterion.ground_truth(masks, masks, (32, 32))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = criterion.segmentation(outputs["pred_logits"], outputs["pred_masks"], truth)
    assert len(losses) == 5
    assert sum(kept.values()) < 2.75 * outputs["pred_masks"].untyped_storage().nbytes()


def test_a_sharp_smooth_max_decides_as_inference_does():
    outputs = make_outputs()
    p, m = outputs["pred_logits"].softmax(-1), outputs["pred_masks"].sigmoid()
    sharp, _ = smooth_max_log_probs(outputs["pred_logits"], outputs["pred_masks"], 60.0)
    best = torch.einsum("fnk,fnhw->fknhw", p, m).amax(2)
    torch.testing.assert_close(sharp.exp(), best, rtol=0.05, atol=1e-6)
    assert (
        sharp.argmax(1)
        == semantic_inference(outputs["pred_logits"], outputs["pred_masks"], outputs["pred_masks"].shape[-2:]).argmax(1)
    ).float().mean() > 0.95


def test_a_query_is_sounding_when_more_than_half_of_it_lies_on_the_sounding_region():
    masks = torch.zeros(1, 16, 16, dtype=torch.int64)
    masks[:, :, 8:] = 1
    pred_masks = torch.full((1, 3, 8, 8), -20.0)
    pred_masks[0, 0, :, 5:] = 20  # all of it sounds
    pred_masks[0, 1, :, 1:6] = 20  # two columns of five sound
    pred_masks[0, 2, :, 2:7] = 20  # three of five
    criterion = make_criterion()
    truth = criterion.ground_truth(masks, masks, (8, 8))
    targets = criterion.segmentation.query_targets(torch.zeros(1, 3, K), pred_masks, truth)
    assert targets.labels.tolist() == [[1, 0, 1]]


def test_good_predictions_cost_less_than_bad_ones():
    masks = torch.zeros(F, 32, 32, dtype=torch.int64)
    masks[:, 8:24, 8:24] = 1
    logits = torch.tensor([[8.0, -8.0]] * 3 + [[-8.0, 8.0]] * 3).expand(F, N, K)
    shape = torch.where(masks[:, None, ::4, ::4] > 0, 10.0, -10.0).expand(F, N, 8, 8)
    right = torch.cat([-shape[:, :3], shape[:, 3:]], 1)
    totals = []
    for pred_masks in (right, -right):
        outputs = make_outputs(pred_logits=logits.clone(), pred_masks=pred_masks.clone())
        losses = make_criterion(aqdl_threshold=1.0, aqml_threshold=1.0)(outputs, masks, masks)
        totals.append({name: value.item() for name, value in losses.items()})
    assert totals[0]["loss_ce"] < 1e-3
    assert totals[0]["loss_dice"] < 0.2 < 0.8 < totals[1]["loss_dice"]
    assert totals[0]["loss_mask"] < totals[1]["loss_mask"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sharpness", [1.0, 8.0])
def test_autocast_changes_neither_losses_nor_gradients(dtype: torch.dtype, sharpness: float):
    """A nearly right prediction at a size whose sums are beyond float16, and queries that lie close together."""
    generator = torch.Generator().manual_seed(2)
    masks = torch.zeros(F, 400, 400, dtype=torch.int64)
    masks[:, 100:300, 40:240], masks[0, 320:380, 300:390] = 1, 2
    shape = torch.where(masks[:, None] > 0, 7.0, -7.0)
    noise = torch.randn(F, N, 400, 400, generator=generator)
    right = torch.cat([-shape.expand(F, 3, 400, 400), shape.expand(F, 3, 400, 400)], 1) + noise
    settings = {
        "pred_logits": torch.tensor([[4.0, -4.0]] * 3 + [[-4.0, 4.0]] * 3).expand(F, N, K).clone(),
        "pred_masks": right,
        "audio_queries": 5 + 0.1 * torch.randn(F, N, D, generator=generator),
    }
    segmentation = SegmentationLosses(
        query_target="object", queries_per_object=2, focal_alpha=-1.0, focal_gamma=2.0, sharpness=sharpness
    )
    torch.manual_seed(0)
    criterion = make_criterion(segmentation=segmentation)
    found = []
    for enabled in (False, True):
        outputs = make_outputs(**{name: value.clone() for name, value in settings.items()})
        with torch.autocast("cpu", dtype, enabled=enabled):
            losses = criterion(outputs, (masks > 0).long(), masks)
        sum(losses.values()).backward()
        found.append(losses | {f"d {name}": value.grad for name, value in outputs.items()})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=0.01, atol=0.01 * expected.abs().max().item())
    assert found[1]["loss_dice"] < 0.2
    assert found[1]["loss_aqdl"] > 0


@pytest.mark.parametrize("filling", [0, 1])
@pytest.mark.parametrize("confidence", [-9.0, 9.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silence_and_sound_everywhere_give_finite_losses_and_gradients(filling: int, confidence: float, dtype):
    logits = torch.zeros(F, N, K)
    logits[..., 1] = confidence  # S_1 and S_2 empty, or all queries
    outputs = make_outputs(pred_logits=logits)
    criterion = make_criterion()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        masks = torch.full((F, 16, 16), filling)
        losses = criterion({name: value.to(dtype) for name, value in outputs.items()}, masks, masks)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for value in outputs.values():
        assert value.grad.isfinite().all()
    if (confidence > 0) != (filling > 0):  # all wrong
        assert outputs["pred_logits"].grad.abs().min() > 1e-4
    assert (losses["loss_aqml"] > 0) == (confidence > 0)


def test_the_thresholds_choose_the_queries():
    outputs = make_outputs(pred_logits=torch.tensor([0.0, 1.0]).expand(F, N, K).clone())  # confidence 0.731
    masks = torch.zeros(F, 16, 16, dtype=torch.int64)
    criterion = make_criterion()
    criterion.aqdl_threshold, criterion.aqml_threshold = 0.7, 0.75
    assert criterion(outputs, masks, masks)["loss_aqml"] == 0
    criterion.aqml_threshold = 0.7
    assert criterion(outputs, masks, masks)["loss_aqml"] > 0


def test_layers_are_weighted_and_named_alike():
    outputs = make_outputs()
    outputs["aux_outputs"] = [{name: outputs[name] for name in ("pred_logits", "pred_masks")}] * 2
    weights = {"loss_aqdl": 0.0, "loss_aqml": 0.0, "loss_ce": 2.0, "loss_mask": 3.0, "loss_dice": 5.0}
    masks = torch.randint(0, 2, (F, 16, 16))
    losses, plain = make_criterion(weights=weights)(outputs, masks, masks), make_criterion()(outputs, masks, masks)
    assert set(losses) == set(weights) | {f"loss_{n}_{i}" for n in ("ce", "mask", "dice") for i in (0, 1)}
    for name in ("loss_ce", "loss_mask_1", "loss_dice_0"):
        assert losses[name].item() == pytest.approx(weights[name.rstrip("_01")] * plain[name].item())


def test_threshold_schedule_is_eq_18():
    schedule = {"start": 0.55, "end": 0.65, "steps": 18, "period": 5000}
    assert threshold_at(0, **schedule) == threshold_at(4999, **schedule) == 0.55
    assert threshold_at(5000, **schedule) == pytest.approx(0.55 + 0.1 / 18)
    assert threshold_at(89999, **schedule) == pytest.approx(0.55 + 0.1 * 17 / 18)
    assert threshold_at(10**6, **schedule) == pytest.approx(0.65)


def test_masks_of_queries_that_no_object_takes_cost_nothing_and_are_not_computed():
    """The losses on single queries, and their gradients, are those of all queries looked at."""
    generator = torch.Generator().manual_seed(5)
    queries = 40
    logits = torch.randn(F, queries, K, generator=generator)
    masks = torch.zeros(F, 16, 16, dtype=torch.int64)
    masks[0, 2:6, 2:6], masks[0, 9:14, 3:9], masks[1, :, 8:] = 1, 2, 1  # the third frame holds nothing
    found = []
    for limited in (True, False):
        criterion = make_criterion("object")
        pred_masks = torch.randn(F, queries, 8, 8, generator=generator.manual_seed(6)).requires_grad_()
        if not limited:
            rule = criterion.segmentation.query_target
            criterion.segmentation.query_target = lambda *scene, rule=rule: replace(rule(*scene), most_chosen=None)
        truth = criterion.ground_truth((masks > 0).long(), masks, (8, 8))
        losses = criterion.segmentation(logits, pred_masks, truth)
        (losses["loss_query_mask"] + losses["loss_query_dice"]).backward()
        found.append((losses["loss_query_mask"], losses["loss_query_dice"], pred_masks.grad))
    assert found[0][0] > 0
    taken = (found[0][2].abs().amax((2, 3)) > 0).sum(1).tolist()
    assert 2 <= taken[0] <= 4  # two queries for each object at most
    assert taken[1:] == [2, 0]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def ellipses(frames: int, size: int) -> torch.Tensor:
    """float (frames, size, size) in [0, 1]: an ellipse in each frame, with the share of a pixel at its edge."""
    fine = 8
    y, x = torch.meshgrid(*[(torch.arange(size * fine) + 0.5) / fine] * 2, indexing="ij")
    shapes = []
    for number in range(frames):
        middle_y, middle_x = size * (0.4 + 0.05 * number), size * (0.62 - 0.06 * number)
        shapes.append(((y - middle_y) / (0.22 * size)) ** 2 + ((x - middle_x) / (0.3 * size)) ** 2 < 1)
    return torch.nn.functional.avg_pool2d(torch.stack(shapes).float(), fine)


def middles(masks: torch.Tensor) -> torch.Tensor:
    """Centers of mass (frames, 2) of (frames, size, size), in pixels."""
    places = torch.arange(masks.shape[-1], dtype=torch.float32)
    mass = masks.sum((1, 2))
    return torch.stack([(masks.sum(3 - dim) * places).sum(1) / mass for dim in (1, 2)], 1)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
def test_free_masks_fitted_by_the_criterion_stand_where_the_truth_is(stride: int):
    torch.manual_seed(0)
    size = 64
    soft = ellipses(4, size)
    masks = (soft > 0.5).long()
    segmentation = SegmentationLosses(
        query_target="object", queries_per_object=1, focal_alpha=-1.0, focal_gamma=2.0, sharpness=8.0
    )
    criterion = make_criterion(segmentation=segmentation, loss_stride=stride, aqdl_threshold=1.0, aqml_threshold=1.0)
    logits = torch.zeros(4, 2, K, requires_grad=True)
    pred_masks = torch.randn(4, 2, size // 4, size // 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits, pred_masks], lr=0.2)
    for _ in range(200):
        outputs = {"audio_queries": torch.zeros(4, 2, D), "pred_logits": logits, "pred_masks": pred_masks}
        optimizer.zero_grad()
        sum(criterion(outputs, masks, masks).values()).backward()
        optimizer.step()
    predicted = (semantic_inference(logits, pred_masks, (size, size)).argmax(1) == 1).float()
    union = torch.maximum(predicted, masks.float()).sum()
    assert (predicted * masks).sum() / union > 0.96
    assert (middles(predicted) - middles(masks.float())).mean(0).abs().max() < 0.1


def test_all_offsets_of_a_stride_together_are_the_loss_on_all_pixels(monkeypatch):
    """At a stride that divides neither side, with ignored pixels; the offsets are drawn one after the other."""
    stride = 3
    masks = torch.randint(K, (F, 20, 16), generator=torch.Generator().manual_seed(1))
    masks[0, 5:9, 3:8] = 255
    log_probs = torch.randn(F, K, 5, 4)
    full, strided = make_criterion(), make_criterion(loss_stride=stride)

    def focal_sum(criterion: AVSCriterion) -> tuple[float, float]:
        truth = criterion.ground_truth(masks, masks.clamp(max=1), (5, 4))
        seen = (truth.masks, truth.counts, truth.one_hot, truth.grid)
        mean, _ = criterion.segmentation.joint_losses(log_probs, *seen)
        return mean.item() * truth.counts.sum().item(), truth.counts.sum().item()

    offsets = [(y, x) for y in range(stride) for x in range(stride)]
    drawn = iter([number for offset in offsets for number in offset])
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor(next(drawn)))
    sums, counts = zip(*(focal_sum(strided) for _ in offsets), strict=True)
    expected, pixels = focal_sum(full)
    assert sum(counts) == pixels == F * 20 * 16 - 20
    assert sum(sums) == pytest.approx(expected, rel=1e-5)


def test_the_offset_of_a_stride_changes_from_step_to_step():
    torch.manual_seed(0)
    criterion = make_criterion(loss_stride=4)
    firsts = {tuple(index.start for index in criterion.sample_pixels(32, 32)[0][1:]) for _ in range(200)}
    assert firsts == {(y, x) for y in range(4) for x in range(4)}


@pytest.mark.parametrize("stride", [2, 5])
def test_what_queries_are_asked_for_does_not_depend_on_the_stride(stride: int):
    """Objects of a few pixels keep their shares and classes: these come from the full masks."""
    masks, objects = torch.zeros(2, F, 24, 24, dtype=torch.int64)
    objects[0, 3, 5], objects[0, 10:12, 10:12], objects[2, 23, 23] = 1, 2, 1
    masks[objects > 0] = 1
    one, other = (make_criterion(loss_stride=n).ground_truth(masks, objects, (6, 6)) for n in (1, stride))
    for name in ("shares", "objects", "object_classes"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.object_classes.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
