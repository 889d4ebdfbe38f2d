"""Every corruption against a direct computation."""

import pytest
import torch

import factlab as fl
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import TokenSpan
from factlab.tracing.corruption import draw_noise, put_noise, with_level
from factlab.tracing.corruption_kinds import parse_corruption

SHAPE = (4, 2)  # samples, tokens


def draw(lm, corruption, seed=5):
    return draw_noise(corruption, lm, *SHAPE, seed)


def normals(width, seed=5):
    return torch.randn(*SHAPE, width, generator=torch.Generator("cpu").manual_seed(seed))


def fitted(lm):
    """Mean, and covariance, of the embeddings, worked out in float64."""
    rows = lm.embedding.weight.detach().double()
    centred = rows - rows.mean(0)
    return rows.mean(0), centred.T @ centred / (len(rows) - 1)


def test_gaussian(make_model):
    noise, level = draw(make_model("gpt2"), fl.tracing.GaussianNoise(level=0.5))
    assert level == 0.5
    assert torch.equal(noise, 0.5 * normals(24))


def test_uniform(make_model):
    noise, level = draw(make_model("gpt2"), fl.tracing.UniformNoise(level=0.5))
    generator = torch.Generator("cpu").manual_seed(5)
    expected = torch.rand(*SHAPE, 24, generator=generator) - 0.5
    assert level == 0.5
    assert torch.allclose(noise, expected, atol=1e-7)
    assert float(noise.abs().max()) <= 0.5


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_multivariate_has_the_covariance_of_the_embeddings(make_model, scale):
    lm = make_model("gpt2")
    mean, covariance = fitted(lm)
    many, level = draw_noise(fl.tracing.MultivariateNoise(scale=scale), lm, 20_000, 1, 0)
    rows = many[:, 0].double()
    assert float((rows.T.cov() - scale**2 * covariance).norm() / covariance.norm()) < 0.1 * scale**2
    assert level == pytest.approx(scale * float(covariance.diagonal().mean().sqrt()), rel=1e-4)
    assert float(rows.mean(0).norm()) < 0.05 * scale
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    noise, _ = draw(lm, fl.tracing.MultivariateNoise(scale=scale))
    assert torch.allclose(noise.double(), scale * normals(24).double() @ root, atol=1e-5)
    replacing, _ = draw(lm, fl.tracing.MultivariateNoise(scale=scale, replace=True))
    assert torch.allclose(replacing.double(), noise + mean, atol=1e-5)


def test_student_is_the_gaussian_with_one_heavy_factor_per_token(make_model):
    lm = make_model("gpt2")
    gaussian, level = draw(lm, fl.tracing.MultivariateNoise())
    student, student_level = draw(lm, fl.tracing.StudentNoise(dof=4))
    assert student_level == level
    generator = torch.Generator("cpu").manual_seed(5)
    torch.randn(*SHAPE, 24, generator=generator)
    u = torch.randn(*SHAPE, 4, generator=generator).square().sum(-1)
    assert torch.allclose(student, gaussian * (2 / u).sqrt()[..., None], atol=1e-6)
    many, _ = draw_noise(fl.tracing.StudentNoise(dof=9), lm, 20_000, 1, 0)
    normal, _ = draw_noise(fl.tracing.MultivariateNoise(), lm, 20_000, 1, 0)
    assert float(many.std()) == pytest.approx(float(normal.std()), rel=0.05)
    assert float(many.abs().max()) > 1.5 * float(normal.abs().max()), "tails are heavier"


def test_noise_is_added_or_takes_the_place():
    embedded, noise = normals(24).repeat(1, 3, 1), normals(24, seed=6)
    span = TokenSpan(1, 3)
    added = put_noise(embedded, noise, span, replace=False)
    assert torch.equal(added[:, 1:3], embedded[:, 1:3] + noise)
    replaced = put_noise(embedded, noise, span, replace=True)
    assert torch.equal(replaced[:, 1:3], noise)
    for result in (added, replaced):
        assert torch.equal(result[:, [0, 3, 4, 5]], embedded[:, [0, 3, 4, 5]])


def test_sigma_over_subject_facts_or_vocabulary(make_model):
    lm = make_model("gpt2")
    fact, other = fl.Fact("{} is", "Rome"), fl.Fact("the {} is", "Space Needle")
    weight = lm.embedding.weight.detach()

    def ids(*facts):
        return [i for f in facts for i in lm.fact_continuation(f).subject_ids]

    for over, entries in (
        ("subject", weight[ids(fact)]),
        ("facts", weight[ids(fact, other)]),
        ("vocabulary", weight),
    ):
        settled = with_level(
            fl.tracing.GaussianNoise(sigmas=2, over=over), lm, ids(fact), [fact, other]
        )
        assert settled.level == pytest.approx(2 * float(entries.std()), rel=1e-5), over
    open_level = fl.tracing.GaussianNoise(over="subject")
    assert with_level(open_level, lm, None, [fact, other]) == open_level


@pytest.mark.parametrize(
    "corruption",
    [
        fl.tracing.GaussianNoise(level=0.5, replace=True),
        fl.tracing.UniformNoise(level=0.7),
        fl.tracing.MultivariateNoise(extra_tokens=1),
        fl.tracing.StudentNoise(dof=3, extra_tokens=99),
    ],
    ids=["replace", "uniform", "extra", "clipped"],
)
def test_the_corrupted_run_is_the_models_own(make_model, corruption):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    config = fl.tracing.TraceConfig(samples=3, corruption=corruption, kinds=("block",))
    trace = fl.causal_trace(lm, fact, config=config)
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    stop = min(span.stop + corruption.extra_tokens, tokens.n_prompt)
    assert trace.corrupted_span == (span.start, stop)
    noise, level = draw_noise(corruption, lm, 3, stop - span.start, config.seed)
    assert trace.noise_level == level

    def corrupt(embedded):
        embedded = embedded.clone()
        if corruption.replace:
            embedded[:, span.start : stop] = noise.double()
        else:
            embedded[:, span.start : stop] += noise.double()
        return embedded

    with torch.no_grad():
        answer = int(lm.model(torch.tensor([tokens.ids])).logits[0, -1].argmax())
        with fl.hooks.intervene(lm, {fl.hooks.Site(0, fl.hooks.Stream.EMBED): corrupt}):
            probs = lm.model(torch.tensor([tokens.ids] * 3)).logits[:, -1].softmax(-1)
    assert trace.corrupted_prob == pytest.approx(float(probs[:, answer].mean()), abs=1e-7)


def test_text_around_a_substitute_must_stay_the_same(make_model):
    lm = make_model("gpt2")
    fact = fl.Fact("Th{} tower", "e")  # "The" is one token, "Thqq" is none
    corruption = fl.tracing.Substitution(subjects=("qq",))
    with pytest.raises(TokenizationError, match="text around the subject splits"):
        fl.causal_trace(lm, fact, config=fl.tracing.TraceConfig(corruption=corruption))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3s", fl.tracing.GaussianNoise(sigmas=3)),
        ("0.35", fl.tracing.GaussianNoise(level=0.35)),
        ("gaussian:2s,over=vocabulary", fl.tracing.GaussianNoise(sigmas=2, over="vocabulary")),
        ("uniform:0.2,replace", fl.tracing.UniformNoise(level=0.2, replace=True)),
        ("multivariate", fl.tracing.MultivariateNoise()),
        ("multivariate:2,extra=1", fl.tracing.MultivariateNoise(scale=2, extra_tokens=1)),
        ("student:7", fl.tracing.StudentNoise(dof=7)),
        ("subject:Megan Rapinoe|A, B", fl.tracing.Substitution(subjects=("Megan Rapinoe", "A, B"))),
    ],
)
def test_corruptions_are_read_from_text(text, expected):
    assert parse_corruption(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-1", "greater than 0"),
        ("0", "greater than 0"),
        ("nan", "finite number"),
        ("lots", "valid number"),
        ("cubic:3", "'cubic'"),
        ("3s,over=all", r"\(over\)"),
        ("3s,blur=1", r"\(blur\)"),
        ("student:2", "greater than or equal to 3"),
        ("subject:", "empty"),
    ],
)
def test_nonsense_is_refused(text, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        parse_corruption(text)


def test_the_next_draw_is_what_one_generator_gives_next(make_model):
    lm = make_model("llama")
    corruption = fl.tracing.GaussianNoise(level=2.0)
    generator = torch.Generator("cpu").manual_seed(5)
    shape = (3, 2, lm.embedding.weight.shape[1])
    for before in range(3):
        expected = 2.0 * torch.randn(shape, generator=generator)
        assert torch.equal(draw_noise(corruption, lm, 3, 2, 5, before)[0], expected)


def test_noise_drawn_anew_is_written_only_where_it_is_asked_for():
    """So what was begun before there was such a setting is still the same run."""
    severed = fl.tracing.TraceConfig(kinds=("block", "mlp_severed"))
    assert "severed_noise" not in severed.model_dump(mode="json")
    anew = fl.tracing.TraceConfig(kinds=("block", "mlp_severed"), severed_noise="anew")
    assert anew.model_dump(mode="json")["severed_noise"] == "anew"
    assert fl.tracing.TraceConfig.model_validate(anew.model_dump(mode="json")) == anew
    with pytest.raises(fl.FactlabError, match="no kind severs one"):
        fl.tracing.TraceConfig(severed_noise="anew")
    other = fl.tracing.Substitution(subjects=("Rome",))
    with pytest.raises(fl.FactlabError, match="a substitution draws none"):
        fl.tracing.TraceConfig(kinds=anew.kinds, severed_noise="anew", corruption=other)
