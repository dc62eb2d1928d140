"""The C++ consumer against the one in Python, and what its header promises about itself."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cases import cases
from faults import TOPIC, calls, limits
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.protection.consumer import Consumer, Content, Limits

PACKAGE = Path(__file__).parents[2] / "interfaces/perception_consumer"
CXX = shutil.which("c++") or shutil.which("g++")
STRICT = [CXX, "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
WITHOUT = ["-fno-exceptions", "-fno-rtti", "-I", str(PACKAGE / "include")]
pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler")


@pytest.fixture(scope="session")
def replay(tmp_path_factory):
    """Gives the C++ consumer's verdicts, with sanitizers for memory and undefined behaviour."""
    program = tmp_path_factory.mktemp("cpp") / "replay"
    checked = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = str(PACKAGE / "test/replay.cpp")
    subprocess.run([*STRICT, *WITHOUT, *checked, source, "-o", str(program)], check=True)

    def run(content, limits, made):
        words = [program, TOPIC, content, *vars(limits).values()]
        given = b"".join(
            struct.pack("=qqq", *now, -1 if message is None else len(message)) + (message or b"")
            for message, now in made
        )
        done = subprocess.run(list(map(str, words)), input=given, capture_output=True, check=True)
        lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
        return [(*map(int, numbers), reason) for *numbers, reason in lines]

    return run


def comparable(verdict):
    size = -1 if verdict.message is None else len(verdict.message)
    return (*map(int, verdict[:4]), size, verdict.reason)


@settings(deadline=None)
@given(st.sampled_from(Content).flatmap(lambda c: st.tuples(st.just(c), calls(c))), limits())
def test_both_give_the_same_verdicts(replay, made, demanded):
    consumer = Consumer(TOPIC, made[0], demanded)
    expected = [comparable(consumer.check(*call)) for call in made[1]]
    assert replay(made[0], demanded, made[1]) == expected


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_it_judges_the_table_of_cases(replay, case):
    assert [verdict[:2] for verdict in replay(case.content, Limits(), case.calls)] == case.expected


def test_it_needs_no_allocation_and_throws_nothing(tmp_path):
    source, linked = tmp_path / "user.cpp", tmp_path / "user.o"
    source.write_text(
        "#include <perception_consumer/consumer.hpp>\n"
        "perception_consumer::Verdict use(perception_consumer::Consumer& one, const char* bytes,\n"
        "                                 std::size_t size) {\n"
        "    return size ? one.check(bytes, size) : one.check();\n"
        "}\n"
    )
    # With exceptions, which it could throw if it wanted to.
    command = [*STRICT, "-O2", "-I", str(PACKAGE / "include"), "-c", str(source), "-o", str(linked)]
    subprocess.run(command, check=True)
    symbols = subprocess.run(["nm", "-uC", linked], capture_output=True, text=True, check=True)
    needed = {line.split(maxsplit=1)[1] for line in symbols.stdout.splitlines()}
    allowed = ("std::chrono::", "memset", "memcpy", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail")
    assert {name for name in needed if not name.startswith(allowed)} == set()


def test_an_installed_package_is_found_by_cmake(tmp_path):
    cmake = Path(sys.prefix, "bin/cmake")
    build, prefix, user = (str(tmp_path / name) for name in ("build", "prefix", "user"))
    (tmp_path / "user").mkdir()
    (tmp_path / "user/CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(planner LANGUAGES CXX)\n"
        "find_package(perception_consumer 0.1 REQUIRED)\n"
        "add_executable(planner planner.cpp)\n"
        "target_link_libraries(planner PRIVATE perception_consumer::perception_consumer)\n"
    )
    (tmp_path / "user/planner.cpp").write_text(
        "#include <perception_consumer/consumer.hpp>\n"
        'static_assert(perception_consumer::data_id("123456789") == 0xDF1939FA);\n'
        "int main() { return 0; }\n"
    )
    for words in (
        ["-S", str(PACKAGE), "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}"],
        ["--install", build],
        ["-S", user, "-B", f"{user}/build", f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["--build", f"{user}/build"],
    ):
        subprocess.run([cmake, *words], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["planner.py", "planner.hpp"])
def test_the_page_shows_the_examples_that_are_run(name):
    page = (Path(__file__).parents[2] / "docs/safety.md").read_text(encoding="utf-8")
    assert (PACKAGE / "example" / name).read_text(encoding="utf-8") in page
