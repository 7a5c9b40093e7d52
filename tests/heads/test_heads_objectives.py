import torch

from kinfold.heads import ScanObjective, TemiObjective, pair_agreement, scan_loss, sinkhorn, temi_loss

H, B, K = 2, 4, 3


def made_logits(n_views=2, seed=0):
    return torch.randn(H, n_views * B, K, generator=torch.Generator().manual_seed(seed))


def test_marginal_takes_in_the_batch_before_it_is_used():
    objective = TemiObjective(H, K, temperature=1.0, momentum=0.9)
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    every = slice(0, H)
    targets = objective.observe(teacher, B, every)
    probabilities = torch.softmax(teacher, dim=2)
    expected = 0.9 / K + 0.1 * probabilities.mean(dim=1)
    torch.testing.assert_close(objective.state()["marginal"], expected)
    log_student, log_teacher = torch.log_softmax(student, 2), probabilities.log()
    weights = pair_agreement(log_teacher[:, :B], log_teacher[:, B:]).mean(dim=0)
    torch.testing.assert_close(objective.agreement(targets).mean(dim=0), weights)
    torch.testing.assert_close(
        objective.loss(student, targets, weights, every, 0.0),
        temi_loss(
            log_student[:, :B], log_student[:, B:], log_teacher[:, :B], log_teacher[:, B:], expected, weights
        ),
    )


def test_heads_seen_tile_by_tile_give_the_same_as_all_at_once():
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    whole, tiled = (TemiObjective(H, K, balanced=True, cross_entropy_weight=1.0) for _ in range(2))
    expected_targets = whole.observe(teacher, B, slice(0, H))
    agreement = whole.agreement(expected_targets)
    weights = agreement.mean(dim=0)
    expected = whole.loss(student, expected_targets, weights, slice(0, H), 0.5)
    tiles = [slice(h, h + 1) for h in range(H)]
    targets = [tiled.observe(teacher[tile], B, tile) for tile in tiles]
    torch.testing.assert_close(torch.cat([tiled.agreement(part) for part in targets]), agreement)
    losses = [
        tiled.loss(student[tile], part, weights, tile, 0.5) for tile, part in zip(tiles, targets, strict=True)
    ]
    torch.testing.assert_close(torch.cat(losses), expected)
    torch.testing.assert_close(tiled.marginal, whole.marginal)


def test_balanced_targets_are_sinkhorn_of_each_view():
    objective = TemiObjective(H, K, teacher_temperature=0.5, balanced=True)
    teacher = made_logits()
    targets = objective.observe(teacher, B, slice(0, H))
    torch.testing.assert_close(targets[:, :B], sinkhorn(teacher[:, B:] / 0.5))
    torch.testing.assert_close(targets[:, B:], sinkhorn(teacher[:, :B] / 0.5))


def test_smoothed_targets_are_the_mean_over_neighbours():
    objective = TemiObjective(H, K, temperature=1.0)
    teacher = made_logits(n_views=6)
    q = torch.softmax(teacher, dim=2).split(B, dim=1)
    targets = objective.observe(teacher, B, slice(0, H)).exp()
    torch.testing.assert_close(targets[:, :B], (q[1] + q[2] + q[4]) / 3)
    torch.testing.assert_close(targets[:, B:], (q[0] + q[3] + q[5]) / 3)


def test_the_cross_entropy_comes_in_with_progress():
    objective = TemiObjective(H, K, cross_entropy_weight=2.0)
    student = made_logits(seed=0)
    targets = objective.observe(made_logits(seed=1), B, slice(0, H))
    start, middle, end = (objective.loss(student, targets, None, slice(0, H), p) for p in (0.0, 0.5, 1.0))
    torch.testing.assert_close(middle - start, (end - start) / 2)
    assert bool((end > start).all())


def test_scan_objective_is_its_loss_at_its_temperature():
    objective = ScanObjective(entropy_weight=3.0, temperature=0.5)
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    targets = objective.observe(teacher, B, slice(0, H))
    a, b = torch.log_softmax(student / 0.5, 2).chunk(2, 1)
    q_a, q_b = torch.log_softmax(teacher / 0.5, 2).chunk(2, 1)
    torch.testing.assert_close(
        objective.loss(student, targets, None, slice(0, H), 0.0),
        scan_loss(a, b, q_a, q_b, entropy_weight=3.0),
    )
    assert not objective.weighted
