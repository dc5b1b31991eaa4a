"""llama.cpp's C interface, as the pinned ``xllamacpp`` wheel exports it, through ctypes.

A structure that moved by one field would be read as garbage without a word, so loading demands the exact release
this file was written for and compares the defaults of both parameter structures, field by field. Misuse of most of
these functions aborts the process: callers check sizes and ranges first.

Set ``GOMP_SPINCOUNT`` (300 to 3000) in the environment of a process before this module is imported: libgomp reads
it once, as it is loaded, and never again. At its default, threads that wait spin for milliseconds, and two engines
that share cores collapse to an eighth of their speed. Whoever starts the process knows how many engines share the
machine, so nothing here sets it.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, ClassVar

from shoal.errors import ModelLoadFailed

logger = logging.getLogger(__name__)

PACKAGE = "xllamacpp"
VERSION = "2026.10.11549"  # llama.cpp b11549

Field = tuple[str, type[Any], object]  # name, C type, the default that llama.cpp must report

MODEL_PARAMS: tuple[Field, ...] = (
    ("devices", c_void_p, None),  # list of devices; NULL: all
    ("tensor_buft_overrides", c_void_p, None),
    ("n_gpu_layers", c_int32, -1),  # negative: all layers, where the build has a GPU
    ("split_mode", c_int32, 1),  # over several GPUs: by layer
    ("load_mode", c_int32, -1),  # automatic: mmap where possible
    ("lazy_mode", c_int32, 1),
    ("main_gpu", c_int32, 0),
    ("tensor_split", c_void_p, None),
    ("progress_callback", c_void_p, None),
    ("progress_callback_user_data", c_void_p, None),
    ("kv_overrides", c_void_p, None),  # replaces metadata of the file
    ("vocab_only", c_bool, False),
    ("check_tensors", c_bool, False),
    ("use_extra_bufts", c_bool, True),  # weights may be repacked for the CPU
    ("no_host", c_bool, False),
    ("no_alloc", c_bool, False),
    ("load_mtp", c_bool, False),
)

CONTEXT_PARAMS: tuple[Field, ...] = (
    ("n_ctx", c_uint32, 512),  # cells of KV over all sequences
    ("n_batch", c_uint32, 2048),  # most tokens of one llama_decode; more aborts the process
    ("n_ubatch", c_uint32, 512),  # most tokens computed at a time
    ("n_seq_max", c_uint32, 1),
    ("n_rs_seq", c_uint32, 0),
    ("n_outputs_max", c_uint32, 0),  # most tokens of a call whose logits are wanted; 0: n_batch
    ("n_outputs_max_per_seq", c_uint32, 1),
    ("n_threads", c_int32, 4),  # for calls of one token a sequence
    ("n_threads_batch", c_int32, 4),  # for all other calls
    ("ctx_type", c_int32, 0),
    ("rope_scaling_type", c_int32, -1),  # -1 here and below: as the model says
    ("pooling_type", c_int32, -1),
    ("attention_type", c_int32, -1),
    ("flash_attn_type", c_int32, -1),  # -1 automatic, 0 off, 1 on
    ("rope_freq_base", c_float, 0.0),
    ("rope_freq_scale", c_float, 0.0),
    ("yarn_ext_factor", c_float, -1.0),
    ("yarn_attn_factor", c_float, -1.0),
    ("yarn_beta_fast", c_float, -1.0),
    ("yarn_beta_slow", c_float, -1.0),
    ("yarn_orig_ctx", c_uint32, 0),
    ("defrag_thold", c_float, -1.0),
    ("cb_eval", c_void_p, None),
    ("cb_eval_user_data", c_void_p, None),
    ("type_k", c_int32, 1),  # ggml type of the cached keys: 1 is F16
    ("type_v", c_int32, 1),
    ("moe_cache_size", c_size_t, 0),
    ("abort_callback", c_void_p, None),  # bool (*)(void * data)
    ("abort_callback_data", c_void_p, None),
    ("embeddings", c_bool, False),
    ("offload_kqv", c_bool, True),
    ("no_perf", c_bool, True),
    ("op_offload", c_bool, True),
    ("swa_full", c_bool, True),  # sliding-window layers keep all positions, so any tail can be removed
    ("kv_unified", c_bool, False),  # one buffer for all sequences
    ("samplers", c_void_p, None),
    ("n_samplers", c_size_t, 0),
    ("ctx_other", c_void_p, None),
)


class ModelParams(ctypes.Structure):
    _fields_: ClassVar = [(name, kind) for name, kind, _ in MODEL_PARAMS]


class ContextParams(ctypes.Structure):
    _fields_: ClassVar = [(name, kind) for name, kind, _ in CONTEXT_PARAMS]


class Batch(ctypes.Structure):
    """The tokens of one ``llama_decode``; every pointer leads to ``n_tokens`` values."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", c_void_p),  # int32
        ("embd", c_void_p),  # float32, in place of tokens
        ("pos", c_void_p),  # int32: the position in its sequence
        ("n_seq_id", c_void_p),  # int32: of how many sequences it is a part
        ("seq_id", c_void_p),  # int32 *: which ones
        ("logits", c_void_p),  # int8: are its logits wanted?
    ]


_vocab = _model = _context = _memory = c_void_p
_token = _seq = _pos = c_int32

#: name -> result, arguments
SIGNATURES: dict[str, tuple[type[Any] | None, tuple[type[Any], ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (c_void_p, c_void_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_load_from_file": (_model, (c_char_p, ModelParams)),
    "llama_model_free": (None, (_model,)),
    "llama_model_get_vocab": (_vocab, (_model,)),
    "llama_model_n_ctx_train": (c_int32, (_model,)),
    "llama_model_has_encoder": (c_bool, (_model,)),
    "llama_model_chat_template": (c_char_p, (_model, c_char_p)),  # NULL: the default one
    "llama_vocab_n_tokens": (c_int32, (_vocab,)),
    "llama_vocab_bos": (_token, (_vocab,)),  # -1: none
    "llama_vocab_eos": (_token, (_vocab,)),
    "llama_vocab_get_add_bos": (c_bool, (_vocab,)),
    "llama_vocab_is_eog": (c_bool, (_vocab, _token)),
    "llama_vocab_is_control": (c_bool, (_vocab, _token)),
    "llama_vocab_get_text": (c_char_p, (_vocab, _token)),
    # text, its bytes, room for tokens, its size, add_special, parse_special -> count, or minus the room needed
    "llama_tokenize": (c_int32, (_vocab, c_char_p, c_int32, POINTER(_token), c_int32, c_bool, c_bool)),
    # token, room for bytes, its size, leading spaces to strip, special -> count, or minus the room needed
    "llama_token_to_piece": (c_int32, (_vocab, _token, c_char_p, c_int32, c_int32, c_bool)),
    "llama_context_default_params": (ContextParams, ()),
    "llama_init_from_model": (_context, (_model, ContextParams)),
    "llama_free": (None, (_context,)),
    "llama_n_batch": (c_uint32, (_context,)),
    "llama_n_ctx_seq": (c_uint32, (_context,)),  # cells of one sequence
    "llama_get_memory": (_memory, (_context,)),
    "llama_memory_seq_rm": (c_bool, (_memory, _seq, _pos, _pos)),  # from, to; -1: the end
    "llama_memory_seq_pos_max": (_pos, (_memory, _seq)),  # -1: empty
    "llama_decode": (c_int32, (_context, Batch)),  # 0 done, 1 no room, 2 aborted, negative: bad input or failure
    "llama_get_logits_ith": (c_void_p, (_context, c_int32)),  # by place in the batch
    "strlen": (c_size_t, (c_void_p,)),  # libc's, which the library itself links
}


class AbortFlag:
    """What llama.cpp asks between any two operations (some 600 times a token) whether it shall stop.

    The callback is libc's ``strlen``, and the flag a string: empty means go on, one character means stop. A
    callback in Python would wait for the interpreter lock each time: with one other busy thread a step took 3 to 5
    times as long.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._text = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(library.strlen, c_void_p)
        self.data = ctypes.cast(self._text, c_void_p)

    def set(self) -> None:
        self._text[0] = b"!"

    def clear(self) -> None:
        self._text[0] = b"\0"


def require_version(found: str | None) -> None:
    """Raises :class:`~shoal.errors.ModelLoadFailed` unless ``found`` is the pinned release; None: no release."""
    if found != VERSION:
        raise ModelLoadFailed(
            f"the llama engine needs {PACKAGE}=={VERSION}, as in pip install 'shoal[llama]';"
            f" installed is {found or 'none'}"
        )


def require_defaults(params: ctypes.Structure, fields: tuple[Field, ...]) -> None:
    """Raises :class:`~shoal.errors.ModelLoadFailed` where llama.cpp's own defaults are not where we read them."""
    for name, _, expected in fields:
        if (found := getattr(params, name)) != expected:
            raise ModelLoadFailed(
                f"this is not the {PACKAGE} that the llama engine needs: {type(params).__name__}.{name} defaults"
                f" to {found!r}, not {expected!r}; install the wheel of {PACKAGE}=={VERSION}"
            )


_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_complaints: deque[str] = deque(maxlen=4)


def _log(level: int, text: bytes, _: object) -> None:
    severity = logging.WARNING if level == _ERROR_LEVEL else logging.DEBUG
    message = text.decode(errors="replace").strip()
    if level == _ERROR_LEVEL:
        _complaints.append(message)
    if message and logger.isEnabledFor(severity):
        logger.log(severity, "llama.cpp: %s", message, extra={"action": "llama_log"})


_LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(_log)  # llama.cpp keeps it as long as the process lives


def complaints() -> str:
    """The last errors that llama.cpp logged, and forget them: its functions only say that they failed."""
    text = "; ".join(_complaints)
    _complaints.clear()
    return text or "no reason given"


def _load(package: Distribution) -> ctypes.CDLL:
    binary = next((file for file in package.files or () if file.match(f"{PACKAGE}/*.so")), None)
    if binary is None:
        raise ModelLoadFailed(f"the llama engine finds no shared library in {PACKAGE} on this platform")
    # On a failed assertion ggml would fork a debugger to print a backtrace before it aborts.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        library = ctypes.CDLL(str(binary.locate()))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as exc:
        raise ModelLoadFailed(f"the llama engine cannot use {PACKAGE} {VERSION}: {exc}") from exc
    return library


def open_library() -> ctypes.CDLL:
    """llama.cpp, ready to be called. Raises :class:`~shoal.errors.ModelLoadFailed`."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        package = None
    require_version(package.version if package else None)
    assert package is not None
    library = _load(package)
    require_defaults(library.llama_model_default_params(), MODEL_PARAMS)
    require_defaults(library.llama_context_default_params(), CONTEXT_PARAMS)
    library.llama_log_set(_LOG, None)
    library.llama_backend_init()
    return library


llama = open_library()
