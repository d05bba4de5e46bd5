"""From file to config: all errors at once, located, in plain words, and without secrets."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import field_validator

from jetsocket_ingest.config.document import MAX_BYTES
from jetsocket_ingest.config.load import Loaded, load
from jetsocket_ingest.config.types import Interpolated, Secret, current
from jetsocket_ingest.errors import ConfigError
from tests.unit.config.examples import GOOD, SINKS, VaultOptions, edited, problems, read, sink_options

TEN_MISTAKES = """\
version: 1
name: Ticks
limits: {max_connections: many}
endpoints:
  desk:
    url: https://feed.example.com/ws
    pool: {max_conections: 5, max_idle_time: 300}
    compression: no
    session:
      subscribe: {via: message, message: {op: subscribe}, ack: {match: {op: x}}}
subscriptions:
  trades: {endpoint: desc, streams: [1], sinks: [out]}
sinks:
  out: {type: nul}
admin: {lisen: x}
"""


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    loaded = load(path, sink_options=sink_options, environ={})
    assert loaded.config.name == "ticks"
    assert loaded.path == path
    assert loaded.warnings == []


def test_ten_mistakes_are_ten_located_messages() -> None:
    assert problems(TEN_MISTAKES) == [
        (
            "c.yaml:2:7: name: expected a name of small letters, digits, - and _, at most 63, that begins with a letter or "
            "digit, found text 'Ticks'"
        ),
        "c.yaml:3:27: limits.max_connections: expected a whole number, found text 'many'",
        (
            "c.yaml:6:10: endpoints.desk.url: expected an address that begins with wss://, ws:// or demo://, found the "
            "scheme https://"
        ),
        "c.yaml:7:12: endpoints.desk.pool.max_conections: unknown key; did you mean max_connections?",
        (
            "c.yaml:7:46: endpoints.desk.pool.max_idle_time: expected a duration with its unit, such as 300s, 5m, 1h30m or "
            "250ms, found 300"
        ),
        "c.yaml:8:18: endpoints.desk.compression: expected true or false, found text 'no'",
        (
            "c.yaml:10:73: endpoints.desk.session.subscribe.ack.match.op: expected a path that begins with $, such as "
            "$.data.id, found 'op'"
        ),
        "c.yaml:12:22: subscriptions.trades.endpoint: there is no endpoint 'desc'; did you mean desk?",
        "c.yaml:12:38: subscriptions.trades.streams[0]: expected text, found the number 1; put it in quotes",
        "c.yaml:14:15: sinks.out.type: unknown sink type 'nul'; installed are: null, vault",
        "c.yaml:15:9: admin.lisen: unknown key; did you mean listen?",
    ]


def test_contradictions_are_told_beside_wrong_values() -> None:
    text = edited(
        (
            "message: {op: subscribe, args: <streams>}}",
            "message: {op: x}, path: /x, ack: {match: {$.a: 1}, timeout: 5}}",
        ),
        ("version: 1", "version: 2"),
    )
    assert [problem.split(": ", 2)[1] for problem in problems(text)] == [
        "version",
        "endpoints.desk.session.subscribe.message",
        "endpoints.desk.session.subscribe.path",
        "endpoints.desk.session.subscribe.ack.timeout",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("version: 1\n", ""), "1:1: missing key version: The version of the config's form."),
        (("version: 1", "version: '1'"), "1:10: version: expected 1, found text '1'"),
        (
            ("version: 1", "version: true"),
            "1:10: version: expected 1, the version of the config's form, found true",
        ),
        (("    url: wss://feed.example.com/ws\n", ""), "4:3: endpoints.desk: missing key url: Address"),
        (("name: ticks", "name:"), "2:6: name: expected text, found nothing (null)"),
        (("name: ticks", "name: [a]"), "2:7: name: expected text, found a list"),
        (("name: ticks", "name: 7"), "2:7: name: expected text, found the number 7; put it in quotes"),
        (("name: ticks", "name: ticks\n7: x"), "3:1: [7]: unknown key; valid here are: admin, "),
        (("name: ticks", "name: ticks\n$x: x"), '3:1: ["$x"]: unknown key; valid here are: admin, '),
        (("name: ticks", "name: ticks\nbuffer: x"), "3:9: buffer: expected a mapping, found text 'x'"),
        (
            ("name: ticks", "name: ticks\nbuffer: {type: disk}"),
            "3:16: buffer.type: expected memory, found text 'disk'",
        ),
        (("  desk:\n", "  ' x':\n"), '4:3: endpoints[" x"]: expected a name of letters'),
        (("  desk:\n", "  desk:\n    headers: {X: 1}\n"), "5:18: endpoints.desk.headers.X: expected text"),
        (
            ("  desk:\n", "  desk:\n    headers: {1: x}\n"),
            "5:15: endpoints.desk.headers[1]: expected text, found the key 1",
        ),
        (
            ("  desk:\n", "  desk:\n    policy: {http_status: {x: retry}}\n"),
            "expected a whole number, found the key 'x'",
        ),
        (
            ("  desk:\n", "  desk:\n    policy: {http_status: {403: stop}}\n"),
            "expected retry or fatal, found text 'stop'",
        ),
        (
            ('"null"}', '"null", markers: 5}'),
            "markers: expected inline or none or a mapping, found the number 5",
        ),
        (
            ('"null"}', '"null", markers: {sinc: out}}'),
            "sinks.out.markers.sinc: unknown key; did you mean sink?",
        ),
        (('{type: "null"}', "{kind: x}"), "sinks.out: missing key type"),
        (('{type: "null"}', "{type: [x]}"), "sinks.out: type: expected text"),
        (('{type: "null"}', "x"), "sinks.out: expected a mapping with the key type"),
        (
            ('{type: "null"}', '{type: "null", batch: {max_records: 0}}'),
            "expected at least 1, found the number 0",
        ),
        (('sinks:\n  out: {type: "null"}\n', "sinks: {}\n"), "sinks: expected at least 1 entry"),
        (
            ("[btc, eth]", "[btc, btc]"),
            "subscriptions.trades.streams: expected each entry once, found 'btc' twice",
        ),
        (
            ("name: ticks", "name: ${NOPE}"),
            "2:7: name: the variable NOPE is not set; set it, or write ${NOPE:-default}",
        ),
        (
            ("name: ticks", "name: ticks\ntelemetry: {traces: {sample: 2.5}}"),
            "expected at most 1, found the number 2.5",
        ),
        (
            ("name: ticks", "name: ticks\ntelemetry: {metrics: {otlp: ftp://x}}"),
            "expected the address of an OTLP/HTTP",
        ),
    ],
)
def test_each_mistake_says_what_was_expected_and_what_was_found(
    change: tuple[str, str], problem: str
) -> None:
    found = problems(edited(change))
    assert any(problem in line for line in found), found
    assert all(re.match(r"c\.yaml:\d+:\d+: ", line) for line in found)


@pytest.mark.parametrize("text", ["hello", "[1, 2]", "5", "~"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("c.yaml:1:1: expected a mapping")


def test_what_the_parser_refused_gives_no_second_message() -> None:
    (problem,) = problems(edited(("name: ticks", "name: ticks\nlimits: !x 5")))
    assert "YAML tags" in problem


def test_files_that_cannot_be_read_are_told_in_words(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    cases = {
        tmp_path / "none.yaml": "No such file or directory",
        tmp_path: "Is a directory",
        Path("nul\0.yaml"): "null byte",
        large: "expected at most 4194304 bytes",
    }
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=words) as caught:
            load(path, sink_options=sink_options)
        assert len(caught.value.problems) == 1


def test_text_from_the_environment_becomes_what_the_model_wants() -> None:
    text = edited(
        (
            "name: ticks",
            "name: ${NAME}\nlimits: {max_connections: '${N}'}\ntelemetry: {traces: {sample: '${F}'}}",
        ),
        (
            "  desk:\n",
            "  desk:\n    compression: ${B}\n    engine: ${E}\n    open_timeout: ${T}\n    max_message_size: ${S}\n",
        ),
        ("  desk:\n", "  desk:\n    policy: {max_attempts: '${NONE:-}'}\n"),
    )
    environ = {"NAME": "from-env", "N": "5", "F": "0.5", "B": "true", "E": "picows", "T": "3s", "S": "4096"}
    config = read(text, environ).config
    desk = config.endpoints["desk"]
    assert (config.name, config.limits.max_connections, config.telemetry.traces.sample) == (
        "from-env",
        5,
        0.5,
    )
    assert (desk.compression, desk.engine, desk.open_timeout, desk.max_message_size) == (
        True,
        "picows",
        3.0,
        4096,
    )
    assert desk.policy.max_attempts is None


@pytest.mark.parametrize(
    ("line", "value", "words"),
    [
        ("limits: {max_connections: '${X}'}", "canary", "expected a whole number, found the value of ${X}"),
        ("limits: {max_connections: '${X}'}", "-77777", "expected at least 1, found the value of ${X}"),
        (
            "shutdown_timeout: ${X}",
            "canary",
            "expected a duration such as 300s, 5m, 1h30m or 250ms, found '${X}'",
        ),
        ("on_failure: ${X}", "canary", "expected continue or stop, found the value of ${X}"),
        ("on_failure: ${X}", "77777", "found the value of ${X}"),
        ("admin: {listen: '${X}'}", "canary", "expected host:port"),
        ("${X}: 5", "canary", "works in values only"),
    ],
)
def test_values_from_the_environment_are_not_quoted(line: str, value: str, words: str) -> None:
    (problem,) = problems(edited(("name: ticks", f"name: ticks\n{line}")), {"X": value})
    assert words in problem
    assert value not in problem


def test_a_connect_reads_addresses_and_headers_afresh() -> None:
    environ = {"KEY": "canary", "TOKEN": "canary"}
    text = edited(("/ws\n", "/ws?key=${KEY}\n    headers: {Authorization: 'Bearer ${TOKEN}'}\n"))
    desk = read(text, environ).config.endpoints["desk"]
    assert isinstance(desk.url, Interpolated)
    environ.update(KEY="k2", TOKEN="t2")
    assert current(desk.url) == "wss://feed.example.com/ws?key=k2"
    assert desk.headers["Authorization"].reveal() == "Bearer t2"


SECRETS = """\
    headers: {Authorization: '%(v)s'}
    query: {key: '%(v)s'}
    tls: {cert_file: c.pem, key_password: '%(v)s'}
"""


@pytest.mark.parametrize("value", ["canary", "${CANARY}", "${file:%s}"])
def test_a_canary_in_every_secret_field_shows_nowhere(value: str, tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text("canary\n")
    value = value.replace("%s", str(secret_file))
    text = edited(
        ("  desk:\n", "  desk:\n" + SECRETS % {"v": value}),
        ('{type: "null"}', f"{{type: vault, password: '{value}'}}"),
    )
    loaded = read(text, {"CANARY": "canary"})
    config = loaded.config
    shown = [
        repr(config),
        str(config),
        str(config.model_dump()),
        config.model_dump_json(),
        str(loaded),
        str(loaded.warnings),
    ]
    assert not [one for one in shown if "canary" in one]
    desk, out = config.endpoints["desk"], config.sinks["out"]
    assert isinstance(out, VaultOptions)
    assert isinstance(desk.tls.key_password, Secret)
    revealed = [desk.headers["Authorization"], desk.query["key"], desk.tls.key_password, out.password]
    assert [secret.reveal() for secret in revealed] == ["canary"] * 4


def test_canaries_from_the_environment_show_nowhere_in_urls_messages_and_matches() -> None:
    text = edited(
        ("/ws\n", "/${CANARY}\n"),
        ("args: <streams>", "args: <streams>, token: '${CANARY}'"),
        ("{stream: $.topic}", "{stream: $.topic, match: {$.a: '${CANARY}', $.b: {regex: '${CANARY}'}}}"),
    )
    config = read(text, {"CANARY": "canary"}).config
    for shown in (repr(config), str(config.model_dump()), config.model_dump_json()):
        assert "canary" not in shown
    message = config.endpoints["desk"].session.subscribe.message
    assert message is not None
    assert message.render({"streams": []})["token"] == "canary"


@pytest.mark.parametrize(
    "lines",
    [
        "    headers: canary\n",
        "    headers: [canary]\n",
        "    headers: {X: [canary]}\n",
        "    headers: {X: {canary: canary}}\n",
        '    headers: {X: "canary\\n"}\n',
        "    headers: {X: 'canary}\n",
        "    headers: {X: *canary}\n",
        "    headers: {X: !canary x}\n",
        "    headers: {X: %canary}\n",
        "    tls: canary\n",
        "    tls: {key_password: [canary]}\n",
        "    tls: {key_pasword: canary}\n",
        "    headers: {X: '${CANARY'}\n",
        "    headers: {X: '${CANARY}'}\n    compression: ${CANARY}\n",
        "    url: wss://u:${CANARY}@h/\n",
        "    query: {X: 5, Y: '${CANARY}', Z: [x]}\n",
    ],
)
def test_a_canary_shows_in_no_error_nor_its_traceback(lines: str) -> None:
    text = edited(
        ("    url: wss://feed.example.com/ws\n", lines if "url:" in lines else f"    url: wss://h/\n{lines}")
    )
    with pytest.raises(ConfigError) as caught:
        read(text, {"CANARY": "canary"})
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "canary" not in shown
    assert caught.value.problems


def test_a_plugins_own_words_do_not_carry_what_came_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Talkative(VaultOptions):
        @field_validator("text")
        @classmethod
        def _refuse(cls, text: str) -> str:
            raise ValueError(f"expected something else than {text}")

    monkeypatch.setitem(SINKS, "vault", Talkative)
    text = edited(('{type: "null"}', "{type: vault, password: x, text: 'a-${X}'}"))
    (problem,) = problems(text, {"X": "canary"})
    assert "sinks.out.text: expected something else than" in problem
    assert "canary" not in problem


def test_what_is_probably_not_meant_is_a_located_warning() -> None:
    text = edited(
        ("args: <streams>", "args: <streams>, note: <steams>"),
        ("  desk:\n", "  spare: {url: wss://h, tls: {dangerously_skip_verification: true}}\n  desk:\n"),
        ('{type: "null"}\n', '{type: "null"}\n  idle: {type: "null"}\nadmin: {listen: 0.0.0.0:8686}\n'),
    )
    warnings = [warning.split(": ", 2) for warning in read(text).warnings]
    assert [(place, path) for place, path, _ in warnings] == [
        ("c.yaml:4:3", "endpoints.spare"),
        ("c.yaml:4:62", "endpoints.spare.tls.dangerously_skip_verification"),
        ("c.yaml:8:42", "endpoints.desk.session.subscribe.message"),
        ("c.yaml:14:3", "sinks.idle"),
        ("c.yaml:15:17", "admin.listen"),
    ]
    assert "did you mean <streams>?" in warnings[2][2]


def test_a_sink_that_takes_only_markers_is_used() -> None:
    text = edited(('"null"}\n', '"null", markers: {sink: side}}\n  side: {type: "null"}\n'))
    assert read(text).warnings == []


WORDS = """\
<<:|${A}|${|<streams>|<<|&a |*a|!!str |: |- |version: 1|name|endpoints:|sinks:|type: |'null'|null|true|1|1.5|.inf|0x|---|...|%YAML 1.2
"""
FRAGMENTS = st.sampled_from(
    [
        *"{}[]:,-?&*!|>'\"%@`#\n\t ~<$\\\x00\x85\u2028\ufeff\ud800é",
        "\n  ",
        "\n    ",
        "---\n",
        "9" * 200,
        *WORDS.split("|"),
    ]
)


def attempt(text: str) -> Loaded | ConfigError:
    try:
        return read(text, {"A": "value"})
    except ConfigError as error:
        return error


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAGMENTS, max_size=30).map("".join))
@example("%YAML 1." + "9" * 5000 + "\n--- x")
@example("&a a: *a")
@example("? {a: b}\n: c")
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    outcome = attempt(text)
    assert isinstance(outcome, Loaded) or outcome.problems


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """GOOD, with pieces replaced or cut."""
    text = GOOD
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_any_damage_to_a_config_is_a_config_or_a_located_error(text: str) -> None:
    outcome = attempt(text)
    if isinstance(outcome, ConfigError):
        for problem in outcome.problems:
            assert re.match(r"c\.yaml:\d+:\d+: |c\.yaml: expected a YAML document", problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["defaults", "endpoints", "subscriptions", "sinks", "telemetry", "admin", "name"]), JSON
)
def test_any_value_in_the_place_of_a_section_is_a_config_or_a_config_error(
    section: str, value: object
) -> None:
    text = yaml.safe_dump({**yaml.safe_load(GOOD), section: value}, allow_unicode=True)
    outcome = attempt(text)
    assert isinstance(outcome, Loaded) or outcome.problems
