"""How a model of the study is served: before and after its export, as a table and in sentences."""

from hpo.plain_text import printable
from hpo.report import formats
from hpo.report.parts import Findings, Table
from hpo.results import ServedModel, Serving


def serving(measured: Serving | None, winner: int | None) -> Findings:
    """What there is to say of it; nothing where it was not measured.

    Args:
        winner: the trial that the report is about: another one's model may have been measured.
    """
    if measured is None:
        return Findings()
    sentences = [comparison(measured), conditions(measured)]
    if measured.trial is not None and measured.trial != winner:
        sentences.insert(0, f"This is the model of trial {measured.trial}, which is not the winner any more.")
    return Findings(sentences=sentences, tables=[table(measured)])


def comparison(measured: Serving) -> str:
    """int8 against PyTorch, in a sentence or two."""
    before, exported, after = measured.models
    text = (
        f"As int8 one text takes {_ms(after)} instead of {_ms(before)}, and the file {_mib(after)} MiB instead of "
        f"{_mib(before)}; as float32 ONNX it takes {_ms(exported)}."
    )
    name, metric = formats.metric(measured.metric), measured.metric
    if measured.learned:
        return f"{text} The model learned from the validation split, so its scores on it say nothing."
    return (
        f"{text} The int8 model's {name} on validation is {formats.short(after.metrics[metric])}, "
        f"PyTorch's {formats.short(before.metrics[metric])}."
    )


def conditions(measured: Serving) -> str:
    """How it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    bits = "7 bits, which no processor overflows" if measured.reduced_range else "8 bits, for processors with VNNI"
    return printable(
        f"All {measured.rows:,} rows of the validation split, whose float32 answers were checked to be PyTorch's. One "
        f"text: median over {measured.latency_texts} texts, of {measured.latency_tokens} tokens in the median, each "
        f"{measured.repeats} times, the three in turn. In batches: of {measured.batch_size}, median of "
        f"{measured.repeats} rounds. int8 weights have {bits}. {formats.count(measured.threads, 'thread')} of "
        f"{measured.processor}; {versions}; {measured.at[:10]}."
    )


def table(measured: Serving) -> Table:
    """A column for each form of the model."""
    models = measured.models
    rows = [
        [formats.first_up(formats.metric(name)), *(formats.score(each.metrics[name]) for each in models)]
        for name in ([] if measured.learned else measured.shown)
    ]
    if models[0].equal is not None:
        rows.append(["Same predictions", "", *(_equal(each) for each in models[1:])])
    rows += [
        ["Largest difference of a logit", "", *(f"{each.largest_difference:.2g}" for each in models[1:])],
        ["One text (ms)", *(f"{each.latency_ms:.2f}" for each in models)],
        [f"Texts a second, {measured.batch_size} at once", *(f"{each.examples_per_second:,.0f}" for each in models)],
        ["File (MiB)", *map(_mib, models)],
    ]
    return Table(header=["On validation", *(each.name for each in models)], rows=rows)


def _equal(model: ServedModel) -> str:
    """All only where it is all."""
    assert model.equal is not None
    return "100 %" if model.equal == 1 else f"{min(100 * model.equal, 99.99):.2f} %"


def _ms(model: ServedModel) -> str:
    return f"{model.latency_ms:.1f} ms"


def _mib(model: ServedModel) -> str:
    return f"{model.mib:,.1f}" if model.mib < 10 else f"{model.mib:,.0f}"
