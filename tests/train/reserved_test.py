"""Reserved directions: who has some, that reading and writing are inverse to each other, that nothing overlaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tracr.rasp import rasp

from tests.helpers import exchange_parts as E
from tests.helpers.teacher_programs import TASKS
from tracr_jax.config import ExchangeConfig
from tracr_jax.errors import UserError
from tracr_jax.lm.load import load_lm
from tracr_jax.presets import preset
from tracr_jax.runs.adapters import load_reserved, save_reserved
from tracr_jax.runs.task_bridge import make_task_bridge
from tracr_jax.tasks.count import Count
from tracr_jax.teacher import compile_program
from tracr_jax.teacher.forward import all_states
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.readers import last_read, value_classes
from tracr_jax.train.codes import number_code, spread
from tracr_jax.train.losses import apply_adapter
from tracr_jax.train.reserved import directions, reserve

FORMS = ({}, {"merge_values": True, "hand_on": True})
forms = pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f) or "plain")


def states(count=40, seed=1):
    return np.random.default_rng(seed).normal(size=(count, E.WIDTH)).astype(np.float32)


@forms
def test_who_has_directions_and_how_many(form):
    r, teacher, oracle = E.reserved(**form), E.setup().teacher, E.setup().oracle
    why = dict(r.left_out)
    assert set(r.names) | set(why) == {v.name for v in teacher.variables}
    assert not set(r.names) & set(why)
    assert why["indices"] == "the program does not use it"
    classes = value_classes(teacher, oracle) if "merge_values" in form else {}
    for v in teacher.variables:
        read = v.kind == "categorical" and last_read(teacher, oracle, v.name) is not None
        assert (v.name in r.names) == read
        if read:
            part = r.coordinates(v.name)
            m = max(classes.get(v.name, range(len(v.values)))) + 1
            assert part.stop - part.start == min(m - 1, 3)
    with pytest.raises(UserError, match="no directions are reserved for 'indices': the program does not use it"):
        r.coordinates("indices")


@forms
def test_variables_that_are_alive_together_share_no_direction(form):
    r, teacher, oracle = E.reserved(**form), E.setup().teacher, E.setup().oracle
    for layer in range(teacher.num_layers + 1):
        alive = [n for i, n in enumerate(r.names) if r.alive[layer, i]]
        used = np.concatenate([r.place[r.coordinates(n)] for n in alive])
        assert len(set(used.tolist())) == len(used)
        for n in r.names:
            v = teacher.variable(n)
            last = last_read(teacher, oracle, n) if "hand_on" in form else teacher.num_layers
            assert (n in alive) == (v.writer_layer <= layer <= last)
    most = max(r.by_coordinate(r.alive).sum(axis=1))
    assert r.total == (most if "hand_on" in form else len(r.place))
    basis = np.asarray(E.trained(r).basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(r.total), atol=1e-6)


@forms
def test_the_adapter_is_the_nearest_centroid(form):
    """Differences of logits of one variable are those of -s |x - c|², for any state."""
    r = E.reserved(**form)
    codes, h = E.trained(r), states()
    read = np.asarray(jax.jit(lambda c: apply_adapter(r.adapter(c), h))(codes), np.float64)
    found, centroids, basis = jax.jit(lambda c: (r.read(c, h), r.centroids(c), r.basis(c)))(codes)
    for i, name in enumerate(r.names):
        v = E.setup().teacher.variable(name)
        g = next(g for g in r.groups if g.variable <= i < g.variable + g.n)
        c = np.asarray(centroids[r.groups.index(g)][i - g.variable], np.float64)
        x = h @ np.asarray(basis)[:, r.coordinates(name)]
        square = np.sum((x[:, None] - c) ** 2, axis=-1)  # [states, classes]
        s = np.exp(float(codes.sharpness[i])) / r.sigma**2
        classes = r.select[list(v.indices)][:, g.column + (i - g.variable) * g.m :][:, : g.m].argmax(1)
        want = -s * square[:, classes]  # [states, values]
        first = np.unique(classes, return_index=True)[1]  # of each class its first value
        own, want = read[:, np.array(v.indices)[first]], want[:, first]
        np.testing.assert_allclose(own - own[:, :1], want - want[:, :1], atol=1e-3)
        np.testing.assert_array_equal(read[:, list(v.indices)].argmax(1), first[want.argmax(1)])
        np.testing.assert_array_equal(np.asarray(found.classes)[:, i], square.argmin(1))
    others = [v for v in E.setup().teacher.variables if v.name not in r.names]
    assert not np.any(read[:, [i for v in others for i in v.indices]])


@forms
def test_writing_moves_one_variable_and_no_other(form):
    r = E.reserved(**form)
    codes, h = E.trained(r), states()
    looked = jax.jit(lambda c, h: (r.read(c, h), apply_adapter(r.readout(c), h)))
    before, logits = looked(codes, h)
    basis = np.asarray(r.basis(codes))

    def group(i):
        return next(g for g in r.groups if g.variable <= i < g.variable + g.n)

    values = [np.random.default_rng(i).integers(group(i).m, size=len(h)) for i in range(len(r.names))]
    write_each = jax.jit(lambda c, h: [r.write(c, h, n, v) for n, v in zip(r.names, values, strict=True)])
    for i, (name, new) in enumerate(zip(r.names, write_each(codes, h), strict=True)):
        after, now = looked(codes, new)
        np.testing.assert_array_equal(after.classes[:, i], values[i])
        np.testing.assert_allclose(after.away[:, i], 0, atol=2e-3)  # the root of float32's rounding
        np.testing.assert_allclose(after.margin[:, i], 1, atol=1e-4)
        mine = set(r.place[r.coordinates(name)])
        apart = [k for k, n in enumerate(r.names) if not set(r.place[r.coordinates(n)]) & mine]
        np.testing.assert_array_equal(after.classes[:, apart], before.classes[:, apart])
        for k in apart:
            g = group(k)
            part = slice(g.column + (k - g.variable) * g.m, g.column + (k + 1 - g.variable) * g.m)
            scale = max(np.abs(logits[:, part]).max(), 1.0)
            assert np.abs(now[:, part] - logits[:, part]).max() <= 1e-6 * scale, (name, r.names[k])
        q = basis[:, r.coordinates(name)]
        moved = np.asarray(new) - h
        np.testing.assert_allclose(moved - moved @ q @ q.T, 0, atol=1e-6)


def test_halfway_between_two_centroids_the_margin_is_nothing():
    r = E.reserved()
    codes = E.trained(r)
    name = r.names[-1]  # of the most values
    ends = [r.write(codes, jnp.asarray(states(1)), name, value) for value in (3, 4)]
    look = jax.jit(r.read)
    found = [look(codes, (1 - t) * ends[0] + t * ends[1]) for t in (0.0, 0.5, 1.0)]
    assert [int(f.classes[0, -1]) for f in (found[0], found[2])] == [3, 4]
    assert float(found[1].margin[0, -1]) <= 1e-4
    assert float(found[1].away[0, -1]) > 0.49
    far = look(codes, ends[0] + 100 * r.basis(codes)[:, r.coordinates(name)].sum(axis=1)[None])
    assert float(far.away[0, -1]) > 10


def test_encoded_classes_are_read_again_and_mixtures_are_not_written():
    r = E.reserved()
    codes = E.trained(r)
    rng = np.random.default_rng(0)
    parts, values = [], []
    for g in r.groups:
        value = rng.integers(g.m, size=(20, g.n))
        parts.append(np.eye(g.m)[value].reshape(20, -1))
        values.append(value)
    one_hot = np.concatenate(parts, axis=1).astype(np.float32)
    encode = jax.jit(r.encode)
    places, held = encode(codes, one_hot)
    assert np.all(np.asarray(held) == 1)
    found = jax.jit(r.read)(codes, places @ r.basis(codes).T)
    np.testing.assert_array_equal(found.classes, np.concatenate(values, axis=1))
    nothing = encode(codes, np.zeros_like(one_hot))[1]
    half = encode(codes, 0.5 * (one_hot + np.roll(one_hot, 1, axis=1)))[1]
    assert not np.any(nothing)
    assert np.asarray(half).sum() < half.size
    # A mean of unlike parts sums to one as well; a value that leaks a little is one all the same.
    other = np.concatenate(
        [np.eye(g.m)[(v + 1) % g.m].reshape(20, -1) for g, v in zip(r.groups, values, strict=True)], 1
    )
    assert not np.any(encode(codes, (2 * one_hot + other.astype(np.float32)) / 3)[1])
    leaky = encode(codes, 0.97 * one_hot)
    assert np.all(np.asarray(leaky[1]) == 1)
    np.testing.assert_array_equal(leaky[0], places)


def test_a_result_that_leaks_in_a_long_table_is_written():
    """Attention is not quite hard: of 78 positions, count's result sums to 0.988 where it is due."""
    task, lm = Count(max_words=60), load_lm("tiny", weights=False)
    config = preset("exchange", task="count")
    bridge = make_task_bridge(config, task=task, lm=lm)
    teacher = bridge.teacher
    oracle = Oracle(task.program(max_seq_len=teacher.max_seq_len))
    r = reserve(teacher, oracle, config.exchange)
    prompt, answer = bridge.split(task.train_item(0, seed=0))
    ids = np.full((1, teacher.max_seq_len), bridge.tokenizer.eos_id, np.int32)
    ids[0, : len(prompt) + len(answer)] = [*prompt, *answer]
    classes = r.classes(all_states(teacher)(bridge.to_teacher(ids)))[-1, 0, 1:]
    due = slice(len(prompt) - 1, len(prompt) - 1 + len(answer))
    held = r.encode(r.init(np.eye(r.total + 1, r.total)), classes)[1]
    assert np.all(np.asarray(held)[due, r.coordinates(oracle.result)] == 1)


def test_a_number_that_a_later_layer_reads_is_refused():
    def program():
        is_a = rasp.numerical(rasp.Map(lambda t: int(t == "a"), rasp.tokens)).named("is_a")
        before = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
        share = rasp.numerical(rasp.Aggregate(before, is_a, default=0)).named("share")
        return rasp.Map(lambda x: x > 0.5, share).named("final_result")

    teacher = compile_program(program, vocab={"a", "b"}, max_seq_len=6)
    with pytest.raises(UserError, match=r"is_a.* is a number that a later layer reads"):
        reserve(teacher, Oracle(program()), ExchangeConfig())


def test_functions_of_a_program_are_not_asked_of_what_stands_in_no_item():
    """Tracr adds "bos" and "pad" to the tokens; a table of the program's own has neither."""
    worth = {"a": 1, "b": 2}

    def program():
        count = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: worth[k] > 1)).named("count")
        return rasp.SequenceMap(lambda n, t: n * worth[t] % 3, count, rasp.tokens).named("final_result")

    teacher = compile_program(program, vocab={"a", "b"}, max_seq_len=5)
    found = value_classes(teacher, Oracle(program()))
    tokens = teacher.variable("tokens")
    kinds = dict(zip(tokens.values, found["tokens"], strict=True))
    assert kinds["a"] != kinds["b"]
    # n and n + 3 are alike to "n * worth % 3".
    count = next(v for v in teacher.variables if v.name.startswith("count"))
    assert [c for _, c in sorted(zip(count.values, found[count.name], strict=True))] == [0, 1, 2, 0, 1, 2]


def test_centroids_keep_their_size():
    """However large they grow in training, what is written is no larger than at the start."""
    r = E.reserved()
    codes = E.trained(r)
    grown = codes._replace(centroids=tuple(10 * c for c in codes.centroids))
    for start, usual, c in zip(r.start, r.usual, r.centroids(grown), strict=True):
        size, most = (np.sqrt(np.sum(usual[..., None] * np.square(x), axis=(1, 2))) for x in (c, start))
        if start.shape[1] > 2:
            np.testing.assert_allclose(size, most, rtol=1e-5)


@pytest.mark.parametrize("name", ["dyck_12", "int_sum_2", "count_16"])
def test_values_of_one_class_are_alike_to_the_whole_program(name):
    """An override by another value of the same class changes no class of anything that is computed from it."""
    task, length = TASKS[name]
    teacher = compile_program(lambda: task.program(max_seq_len=length), vocab=task.vocab(), max_seq_len=length)
    oracle = Oracle(task.program(max_seq_len=length))
    classes = value_classes(teacher, oracle)
    of = {
        v.name: dict(zip(v.values, classes[v.name], strict=True)) for v in teacher.variables if v.name in classes
    }
    rng = np.random.default_rng(0)
    tokens = [t for t in task.vocab()]
    merged = [n for n, c in of.items() if len(set(c.values())) < len(c) and n in oracle.names and n != "tokens"]
    assert merged
    for variable in merged:
        for _ in range(6):
            text = [tokens[i] for i in rng.integers(len(tokens), size=8)]
            at = int(rng.integers(8))
            values = list(of[variable])
            kind = of[variable][values[rng.integers(len(values))]]
            alike = [v for v in values if of[variable][v] == kind]
            one, other = (
                oracle(text, overrides={(variable, at): alike[i]}).values for i in rng.integers(len(alike), size=2)
            )
            for reader in oracle.names:
                if reader in of and reader != variable:
                    pair = [[of[reader].get(v, v) for v in values[reader]] for values in (one, other)]
                    assert pair[0] == pair[1], (variable, reader)


def test_dyck_asks_signs_of_its_differences():
    found = value_classes(E.setup().teacher, E.setup().oracle)
    for v in E.setup().teacher.variables:
        if "diffs_" in v.name and "aggregated" not in v.name:
            assert [c for _, c in sorted(zip(v.values, found[v.name], strict=True))] == (
                [0] * (len(v.values) // 2) + [1] + [2] * (len(v.values) // 2)
            )
        if "start_counts" in v.name and v.name in found:
            assert len(set(found[v.name])) == len(v.values)


def test_small_numbers_stand_apart():
    code = number_code(range(-45, 46), 8)
    steps = np.linalg.norm(np.diff(code, axis=0), axis=1)
    assert min(steps[44:46]) > 0.4  # -1 to 0 and 0 to 1
    assert steps.min() > 0.1


@pytest.mark.parametrize("k", range(1, 17))
def test_numbers_have_as_many_dimensions_as_are_asked(k):
    assert number_code(range(60), k).shape == (60, k)


def test_more_directions_tell_large_numbers_apart():
    """Half the distance is to be several standard deviations of the noise, 0.12: on 8 directions it is 1.5."""
    nearest = {}
    for k in (8, 10, 12, 14, 16):
        code = number_code(range(60), k)
        nearest[k] = np.min(np.linalg.norm(code[:, None] - code, axis=-1) + 99 * np.eye(60))
    assert nearest[8] < 0.4
    assert nearest[10] > 0.7
    assert nearest[12] > 1.4
    assert nearest[16] >= nearest[14] > 2


@pytest.mark.parametrize(("m", "k"), [(3, 2), (4, 3), (8, 7), (9, 8), (26, 8), (5, 2)])
def test_other_values_begin_as_far_apart_as_they_go(m, k):
    """One draw alone puts two of three places nearer than the noise of 0.12 once in six times."""
    nearest = []
    for seed in range(20):
        x = spread(m, k, np.random.default_rng(seed))
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(np.mean(x**2), 1, rtol=1e-9)
        apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
        nearest.append(apart[~np.eye(m, dtype=bool)].min())
        if k == m - 1:
            np.testing.assert_allclose(apart[~np.eye(m, dtype=bool)], np.sqrt(2 * m), rtol=1e-9)
    assert min(nearest) > 0.9
    assert not np.allclose(spread(m, k, np.random.default_rng(0)), x)


def test_a_token_of_the_programs_stands_for_its_class_and_not_bos():
    """Of the letters x and y "bos" comes first, and no item holds it."""
    program = rasp.Map(lambda t: t == "y", rasp.tokens).named("final_result")
    shown = rasp.SequenceMap(lambda a, b: a and b, program, rasp.Map(lambda i: i > 0, rasp.indices)).named("end")
    teacher = compile_program(shown, vocab={"x", "y", "z"}, max_seq_len=4)
    r = reserve(teacher, Oracle(shown), ExchangeConfig(merge_values=True))
    values = teacher.variable("tokens").values
    assert values[0] == "bos"
    assert {values[i] for i in r.standing(teacher, "tokens")} == {"x", "y"}
    assert r.alike(teacher, "tokens") == {values.index("x"): "x,z"}
    codes = r.init(directions(0, width=16, count=r.total))
    state = r.write(codes, np.zeros((1, 16), np.float32), "tokens", int(r.class_of(teacher, "tokens")[1]))
    read = np.asarray(apply_adapter(r.adapter(codes), state))[0, list(teacher.variable("tokens").indices)]
    assert values[read.argmax()] == "x"


def test_directions_beside_others():
    first = directions(0, width=32, count=10)
    second = directions(1, width=32, count=12, beside=first)
    np.testing.assert_allclose(np.concatenate([first, second], 1).T @ second, np.eye(22)[:, 10:], atol=1e-12)
    with pytest.raises(UserError, match=r"need 23, the model has 22 that are free"):
        directions(3, width=32, count=23, beside=first)


@pytest.mark.parametrize("width", [32, 128])
def test_programs_of_one_seed_and_one_number_of_directions_share_none(width):
    """The draw of the first, less its own span, is rounding noise, whose basis is anything."""
    taken = np.zeros((width, 0))
    for _ in range(3):
        own = directions(0, width=width, count=10, beside=taken)
        np.testing.assert_allclose(taken.T @ own, 0, atol=1e-12)
        taken = np.concatenate([taken, own], axis=1)
    np.testing.assert_array_equal(taken[:, :10], directions(0, width=width, count=10))


def test_a_program_of_which_nothing_is_read_is_refused():
    program = rasp.Map(lambda t: 0, rasp.tokens).named("final_result")
    teacher = compile_program(program, vocab={"a", "b"}, max_seq_len=3)
    r = reserve(teacher, Oracle(program), ExchangeConfig())
    assert r.names == ("tokens",)  # read by the one layer; the result has a single value
    with pytest.raises(UserError, match="no variable that a later operation reads"):
        reserve(teacher, Oracle(program), ExchangeConfig(merge_values=True))


@forms
def test_it_is_read_back_from_its_file(form, tmp_path):
    r = E.reserved(**form)
    save_reserved(r, tmp_path / "reserved.npz")
    again = load_reserved(tmp_path / "reserved.npz", E.setup().teacher)
    for name, value in vars(r).items():
        found = getattr(again, name)
        if name in ("start", "usual"):
            for one, other in zip(value, found, strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_array_equal(found, value)
    (tmp_path / "reserved.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"reserved\.npz"):
        load_reserved(tmp_path / "reserved.npz", E.setup().teacher)
