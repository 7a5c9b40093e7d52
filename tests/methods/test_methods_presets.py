import pytest

from kinfold import TAC
from kinfold.errors import InputError
from kinfold.methods import METHODS, PRESETS, plan_training, preset_parameters

KNOWN = {**METHODS, "tac": TAC}
EVERY = [(method, preset) for method, presets in PRESETS.items() for preset in presets]


@pytest.mark.parametrize(("method", "preset"), EVERY)
def test_every_preset_is_made_of_possible_parameters(method, preset):
    KNOWN[method](n_clusters=10, **preset_parameters(method, preset)).check_parameters()


def test_every_method_has_the_papers_settings():
    assert set(PRESETS) == set(KNOWN) - {"auto", "graph"}  # graph clustering is no paper's
    assert all("paper" in presets for presets in PRESETS.values())


@pytest.mark.parametrize(
    ("method", "preset", "heads", "epochs", "batch", "rate"),
    [
        ("temi", "paper", 50, 200, 512, 2e-4),
        ("temi", "imagenet1k", 32, 50, 512, 2e-4),
        ("temi", "imagenet21k", 32, 25, 512, 2e-4),
        ("scan", "imagenet1k", 32, 50, 4096, 1.6e-3),
        ("scan", "imagenet21k", 32, 25, 4096, 1.6e-3),
        ("icce", "paper", 50, 400, 1024, 4e-4),
        ("icce", "cifar", 50, 400, 256, 1e-4),
        ("icce", "cifar20", 50, 800, 256, 1e-4),
        ("icce", "stl10", 50, 800, 1024, 4e-4),
    ],
)
def test_trainings_are_those_of_the_papers(method, preset, heads, epochs, batch, rate):
    found = preset_parameters(method, preset)
    assert found["learning_rate"] == pytest.approx(rate)
    assert (found["n_heads"], found["n_epochs"], found["batch_size"]) == (heads, epochs, batch)
    assert (found["momentum"], found["tol"]) == (0.996, 0)


@pytest.mark.parametrize(("epochs", "warmup"), [(400, 20), (200, 20), (50, 5), (25, 2.5)])
def test_warm_up_is_twenty_epochs_and_shorter_in_proportion(epochs, warmup):
    plan = plan_training(
        51_200, 768, 100, n_epochs=epochs, batch_size=512, learning_rate=2e-4, momentum=0.996
    )
    assert plan.schedule.warmup_steps == warmup * plan.steps_per_epoch
    assert plan.schedule.frozen_steps == plan.steps_per_epoch


def test_turtle_makes_the_papers_steps():
    found = preset_parameters("turtle", "paper")
    assert (found["n_steps"], found["batch_size"], found["learning_rate"]) == (6000, 10_000, 1e-3)


def test_what_published_code_does_is_in_the_presets_and_ours_in_the_defaults():
    tac, icce = preset_parameters("tac", "paper"), preset_parameters("icce", "paper")
    assert (tac["separate_moments"], tac["initialization"]) == (True, "truncated_normal")
    assert (icce["sinkhorn"], icce["self_training_rates"]) == ("joint", "dinov2")
    assert icce["self_training_iterations"] == 10 * 1250
    ours = METHODS["icce"]().get_params() | TAC().get_params()
    assert (ours["separate_moments"], ours["initialization"], ours["sinkhorn"]) == (False, "uniform", False)


def test_a_preset_is_a_copy():
    preset_parameters("temi", "paper")["n_heads"] = 1
    assert preset_parameters("temi", "paper")["n_heads"] == 50


def test_auto_gets_the_preset_of_each_candidate_that_has_it():
    found = preset_parameters("auto", "imagenet1k", candidates=("kmeans", "temi", "icce"))
    assert found == {"parameters": {"temi": preset_parameters("temi", "imagenet1k")}}


@pytest.mark.parametrize(
    ("method", "preset", "words"),
    [
        ("temi", "papr", "did you mean 'paper'"),
        ("temi", "imagenet1", "did you mean 'imagenet1k'"),
        ("kmeans", "imagenet1k", "has no preset 'imagenet1k'.*it has paper"),
        ("auto", "nothing", "it has"),
    ],
)
def test_unknown_presets_get_the_nearest_name(method, preset, words):
    with pytest.raises(InputError, match=words):
        preset_parameters(method, preset, candidates=("temi", "icce"))
