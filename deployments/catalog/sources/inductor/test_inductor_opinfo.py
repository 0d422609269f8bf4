"""Inductor against eager, operator by operator: OpInfo's database, compiled with `torch.compile`, forward and backward.

One class serves every device: `instantiate_device_type_tests` makes `TestInductorOpInfoCPU`, `...CUDA` (also ROCm),
`...XPU` and so on from it, for whatever the build finds, with tests named `test_forward_add_cpu_float32`.

What is compared
    `test_forward` runs an operator on inputs that need no gradient (Inductor's inference graph), `test_backward` on
    inputs that do (its training graph: outputs, then the gradients for one random cotangent). Eager and compiled get
    copies of the same inputs. An operator for which OpInfo declares no derivative in the chosen dtype has no
    backward test.

What is chosen
    Dtypes: see `chosen_dtypes`. Samples: see `chosen_samples`; at most `SAMPLES` of an operator's.

What is skipped, by rule and with the reason in the result, never by a list of operators
    no dtype      OpInfo declares no dtype for the operator on this device
    random        eager itself draws random numbers (an operator tagged `nondeterministic_seeded` moved the generator)
    undefined     OpInfo declares that the output differs from call to call (`empty`: memory as it was found)
    not compiled  Dynamo found nothing in the operator that it could put into a graph: both sides would be eager
    and what OpInfo's own decorators skip (no LAPACK, only on CUDA, ...).
    OpInfo's expected failures of PyTorch's own Inductor tests are not taken over: what fails, fails here.
"""

import os

# Inductor starts a pool of compiler processes by default; a slot has only the threads that it was given.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))

import contextlib
import itertools
import unittest.mock

import torch
from torch._dynamo.utils import counters
from torch.testing._comparison import default_tolerances
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_device_type import instantiate_device_type_tests, ops, toleranceOverride
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import TestCase, clear_tracked_input, run_tests, set_rng_seed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

SEED = 20260
SAMPLES = int(os.environ.get("OPINFO_SAMPLES", "1"))
"""How many of an operator's samples one test compiles. Each costs a compilation per graph: 0.6 s and more on a CPU."""
SAMPLES_SEEN = 24
"""How many samples the choice is made from. Some operators have hundreds, which take longer to make than to compile."""
TOLERANCE_FACTOR = 10
"""Times torch.testing's defaults. A fused kernel sums in another order, contracts to FMA and rounds once where eager
rounds after each step; the defaults are meant for one and the same kernel on one and the same machine."""

PREFERRED = (torch.float32, torch.int64, torch.bool, torch.complex64, torch.float64, torch.bfloat16, torch.float16)


def chosen_dtypes(op, device_type, supported):
    """The dtypes to test: float32 where there is it, else the first of `PREFERRED`, else whatever comes first by name.

    On accelerators also bfloat16 (float16 where the operator has no bfloat16), because their kernels for it are others:
    tensor cores, vector widths, accumulation in float32. A CPU pays a compilation for it and learns little.
    """
    if not supported:
        return []
    first = next((dtype for dtype in PREFERRED if dtype in supported), min(supported, key=str))
    if device_type == "cpu" or first != torch.float32:
        return [first]
    half = next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in supported), None)
    return [first, half] if half else [first]


class ops_by_device(ops):
    """`@ops` with `chosen_dtypes`. An operator without any dtype keeps a test (without dtype) that says so."""

    def __init__(self, op_list, backward):
        super().__init__(op_list)
        self.backward = backward

    def _parametrize_test(self, test, generic_cls, device_cls):
        device_type = device_cls.device_type
        for op in self.op_list:
            dtypes = chosen_dtypes(op, device_type, op.supported_dtypes(device_type))
            if self.backward:
                differentiable = op.supported_backward_dtypes(device_type) if op.supports_autograd else ()
                dtypes = [dtype for dtype in dtypes if dtype in differentiable]
            elif not dtypes:
                dtypes = [None]
            yield from ops([op], dtypes=dtypes)._parametrize_test(test, generic_cls, device_cls)


def chosen_samples(op, device, dtype, requires_grad):
    """At most `SAMPLES`: the one with the most elements (tails and vector loops), then the first ones OpInfo gives."""
    seen = list(itertools.islice(op.sample_inputs(device, dtype, requires_grad=requires_grad), SAMPLES_SEEN))
    clear_tracked_input()  # or the last one seen would be blamed for what goes wrong
    if requires_grad:
        seen = [sample for sample in seen if leaves(sample)]
    largest = max(range(len(seen)), key=lambda i: sum(t.numel() for t in tensors(arguments(seen[i]))), default=None)
    order = sorted(range(len(seen)), key=lambda i: (i != largest, i))
    return [(i, seen[i]) for i in sorted(order[:SAMPLES])]


def arguments(sample):
    """A sample as the positional and keyword arguments of a call."""
    return (sample.input, *sample.args), sample.kwargs


def tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def leaves(sample):
    """The tensors that a gradient is asked for, in order."""
    return [tensor for tensor in tensors(arguments(sample)) if tensor.requires_grad]


def copied(sample):
    """Arguments of the sample's own, so that an operator that writes into them spoils nothing for the next."""
    return tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), arguments(sample))


class RandomOperators(TorchDispatchMode):
    """Notes every operator that draws from the device's random generator while the mode is on.

    The tag alone would not do: attention carries it for its dropout and draws nothing without.
    """

    def __init__(self, device_type):
        super().__init__()
        self.generator_state = (
            torch.get_rng_state if device_type == "cpu" else getattr(torch, device_type).get_rng_state
        )
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = self.generator_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, self.generator_state()):
            self.seen.add(str(func))
        return result


def unseeded(op, *args, **kwargs):
    """Stands in for OpInfo's wrapper that seeds around random operators: Dynamo cannot trace it, and `run` seeds."""
    return op(*args, **kwargs)


def why_not_compiled():
    """What Dynamo counted while it made no graph: each break's title with its explanation."""
    breaks = [str(reason).splitlines() for kind in ("graph_break", "unimplemented") for reason in counters[kind]]
    told = [": ".join(line.strip().removeprefix("Explanation: ") for line in lines[:2]) for lines in breaks]
    return "not compiled: " + ("; ".join(dict.fromkeys(told)) or "no tensor operation")


class TestInductorOpInfo(TestCase):
    @ops_by_device(op_db, backward=False)
    def test_forward(self, device, op, dtype=None):  # noqa: PT028 - None where OpInfo declares no dtype
        self.compare_samples(device, dtype, op, requires_grad=False)

    @ops_by_device(op_db, backward=True)
    def test_backward(self, device, op, dtype):
        self.compare_samples(device, dtype, op, requires_grad=True)

    def tearDown(self):
        torch._dynamo.reset()
        super().tearDown()

    def compare_samples(self, device, dtype, op, requires_grad):
        """Compiles and compares each chosen sample; skips when the rules leave none."""
        if dtype is None:
            self.skipTest(f"OpInfo declares no dtype for {op.full_name} on {self.device_type}")
        if op.has_nondeterministic_output:
            self.skipTest("undefined: OpInfo declares that the output differs from call to call")
        set_rng_seed(SEED)
        samples = chosen_samples(op, device, dtype, requires_grad)
        if not samples:
            self.skipTest("OpInfo has no sample" + (" with an input that takes a gradient" if requires_grad else ""))
        reasons = [self.compare_or_explain(op, i, sample, dtype, requires_grad) for i, sample in samples]
        if all(reasons):
            self.skipTest("; ".join(dict.fromkeys(reasons)))

    @unittest.mock.patch.object(common_methods_invocations, "wrapper_set_seed", unseeded)
    def compare_or_explain(self, op, i, sample, dtype, requires_grad):
        """`compare_sample`, with operator and sample in the first line of whatever goes wrong."""
        try:
            return self.compare_sample(op, sample, dtype, requires_grad)
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(f"{op.full_name}, sample {i}: {kind}{error}\n\n{sample.summary()}") from error

    def compare_sample(self, op, sample, dtype, requires_grad):
        """None when eager and compiled agree; the reason when there is nothing to compare. Raises when they differ."""
        function = op.get_op()

        def call(*args, **kwargs):
            return function(*args, **kwargs)

        random = RandomOperators(self.device_type)
        expected = run(call, sample, requires_grad, watched_by=random)
        if random.seen:
            return "random: eager draws from " + ", ".join(sorted(random.seen))
        if requires_grad and expected[1] is None:
            return "no output takes part in a gradient"

        torch._dynamo.reset()
        counters.clear()
        actual = run(torch.compile(call, backend="inductor", dynamic=False), sample, requires_grad)
        if not counters["stats"]["unique_graphs"]:
            return why_not_compiled()
        self.assert_agree(expected[0], actual[0], "output", op, dtype)
        if requires_grad:
            self.assert_agree(expected[1], actual[1], "gradient", op, dtype)
        return None

    def assert_agree(self, expected, actual, what, op, dtype):
        """Raises where a leaf of `actual` is not within tolerance of the same leaf of `expected`."""
        expected, actual = tree_flatten(expected)[0], tree_flatten(actual)[0]
        if len(expected) != len(actual):
            raise AssertionError(f"{what}: {len(expected)} results in eager, {len(actual)} compiled")
        for i, (want, got) in enumerate(zip(expected, actual, strict=True)):
            if isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor):
                rtol, atol = self.tolerances(op, dtype, want.dtype)
                name = f"{what} {i}"
                torch.testing.assert_close(
                    got, want, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
                )
            else:
                self.assertEqual(got, want, f"{what} {i}")  # noqa: PT009 - numbers agree within tolerance, NaN with NaN

    def tolerances(self, op, dtype, result_dtype):
        """(rtol, atol): torch.testing's defaults times the factor, widened where OpInfo has its own for the operator.

        OpInfo's come in two ways: for all tests (the framework has put them into `precision` and `rel_tol` by now) and
        for PyTorch's own Inductor test, `TestInductorOpInfo.test_comprehensive`. Results that are no floats are exact.
        """
        rtol, atol = default_tolerances(result_dtype)
        if not (result_dtype.is_floating_point or result_dtype.is_complex):
            return rtol, atol
        rtol, atol = max(rtol * TOLERANCE_FACTOR, self.rel_tol), max(atol * TOLERANCE_FACTOR, self.precision)
        for decorator in op.get_decorators("TestInductorOpInfo", "test_comprehensive", self.device_type, dtype, {}):
            if isinstance(decorator, toleranceOverride) and dtype in decorator.d:
                rtol, atol = max(rtol, decorator.d[dtype].rtol), max(atol, decorator.d[dtype].atol)
        return rtol, atol


def run(function, sample, requires_grad, watched_by=None):
    """(outputs, gradients) of one call on copies of the sample; gradients None where no output takes part in one."""
    args, kwargs = copied(sample)
    set_rng_seed(SEED)
    with torch.set_grad_enabled(requires_grad), watched_by or contextlib.nullcontext():
        result = function(*args, **kwargs)
    if not requires_grad:
        return result, None
    outputs = [out for out in tensors(sample.output_process_fn_grad(result)) if out.requires_grad]
    inputs = [tensor for tensor in tensors((args, kwargs)) if tensor.requires_grad]
    if not outputs:
        return result, None
    set_rng_seed(SEED)
    cotangents = [torch.randn_like(out) for out in outputs]
    gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    # No gradient and a gradient of zeros say the same; AOTAutograd may give the second where eager gives the first.
    return result, [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]


instantiate_device_type_tests(
    TestInductorOpInfo, globals(), except_for=("meta", "lazy"), allow_mps=True, allow_xpu=True
)

if __name__ == "__main__":
    run_tests()
