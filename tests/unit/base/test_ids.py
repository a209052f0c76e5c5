import os

from modelyard.base.ids import id_from, id_start, new_id


def test_forked_processes_create_different_ids():
    id_suffixes: list[str] = []
    for _ in range(2):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, new_id("x")[-16:].encode())
            os._exit(0)
        os.waitpid(child, 0)
        id_suffixes.append(os.read(read, 100).decode())
        os.close(read)
        os.close(write)
    assert len({*id_suffixes, new_id("x")[-16:]}) == 3


def test_ids_of_one_moment_differ_and_look_like_all_others():
    start = id_start("req")
    ids = [id_from(start).decode() for _ in range(3)]
    assert len({*ids}) == 3
    assert ids == sorted(ids)
    before, after = ids[0], new_id("req")
    assert before < after
    assert len(before) == len(after)
