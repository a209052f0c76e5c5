"""Programs that parse generated programs. They run in the sandbox, since a parser may be
crashed by its input, and they never run what they parse."""

from collections.abc import Mapping

import msgspec


class CodeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a program looks like."""

    problem: str = ""
    """Why it cannot be used; empty if it can be parsed and defines `main`."""
    parameters: list[str] | None = None
    """The inputs that `main` takes; None if they cannot be told from its text."""
    results: list[str] | None = None
    """The keys of what `main` returns; None if they cannot be told from its text."""


_PYTHON = """
import ast

def main(source):
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return {"problem": f"line {error.lineno}: {error.msg}"}
    except (ValueError, RecursionError, MemoryError) as error:
        return {"problem": f"it cannot be parsed: {error}"}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = [function for function in functions if function.name == "main"]
    if not found:
        return {"problem": "it does not define a function named main"}
    signature = found[-1].args
    arguments = signature.posonlyargs + signature.args + signature.kwonlyargs
    parameters = [argument.arg for argument in arguments]
    if signature.vararg or signature.kwarg:
        parameters = None
    return {"problem": "", "parameters": parameters, "results": keys_of(found[-1])}

INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

def keys_of(function):
    keys, todo = set(), list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Return):
            if not isinstance(node.value, ast.Dict):
                return None
            for key in node.value.keys:
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    return None
                keys.add(key.value)
        elif not isinstance(node, INNER):
            todo += ast.iter_child_nodes(node)
    return sorted(keys)
"""
# `new Function` compiles its body without running it.
_JAVASCRIPT = r"""
function main({source}) {
  try {
    new Function(source)
  } catch (error) {
    return {problem: String(error)}
  }
  if (!/\bfunction\s{1,20}main\s{0,20}\(/.test(source)) {
    return {problem: 'it does not define a function named main'}
  }
  const head = /\bfunction\s{1,20}main\s{0,20}\(\s{0,20}\{([\w$,\s]{0,2000})\}\s{0,20}\)/
  const found = head.exec(source)
  const names = found && found[1].split(',').map(name => name.trim()).filter(name => name)
  return {problem: '', parameters: names, results: null}
}
"""
CHECKERS: Mapping[str, str] = {"python3": _PYTHON, "javascript": _JAVASCRIPT}
"""Language of a code node → the program that checks programs in it."""
