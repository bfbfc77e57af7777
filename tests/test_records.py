import json, multiprocessing as mp, os, signal, time

import pytest
from spot_nb.records import (SpotError, Store, atomic_path, prompt_id, read_json, read_jsonl, read_rows,
                             write_json, write_jsonl)


def _write_forever(path):
    with Store(path) as store:
        n = len(store)
        while True: store.append({"id": f"r{n}", "text": "x" * 5000}); n += 1


def test_kill_loses_at_most_the_line_in_flight(tmp_path):
    path, before = tmp_path/"out.jsonl", 0
    for _ in range(3):
        p = mp.get_context("fork").Process(target=_write_forever, args=(path,)); p.start()
        deadline = time.time() + 20
        while (not path.exists() or path.stat().st_size < (before + 5) * 5000) and time.time() < deadline:
            time.sleep(0.01)
        os.kill(p.pid, signal.SIGKILL); p.join()
        with Store(path) as store: ids = [r["id"] for r in store.records]
        assert ids == [f"r{i}" for i in range(len(ids))] and len(ids) > before
        before = len(ids)


@pytest.mark.parametrize("tail", [b'{"id": "b", "x": "\xc3', b'{"id": "b"', b'{"id": "b", }\n'])
def test_torn_tail_is_dropped(tmp_path, tail):
    path = tmp_path/"a.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + tail)
    with Store(path) as store: assert store.torn and store.ids == {"a"}
    assert path.read_bytes() == b'{"id": "a"}\n'


def test_a_record_without_its_newline_is_kept(tmp_path):
    path = tmp_path/"a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}')
    with Store(path) as store:
        assert not store.torn and store.ids == {"a", "b"}
        store.append({"id": "c"})
    assert [r["id"] for r in read_jsonl(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("content",
                         [b'[{"id": 1, "prompt": "p"}]', b'[\n{"id": 1}\n]', b'some notes', b'"text"\n',
                          b'{"data": [1]}\n'])
def test_a_file_of_another_kind_is_left_alone(tmp_path, content):
    path = tmp_path/"mine.json"
    path.write_bytes(content)
    with pytest.raises(SpotError, match="line 1"): Store(path)
    assert path.read_bytes() == content


def test_a_folder_as_output_is_named(tmp_path):
    with pytest.raises(SpotError, match="cannot be opened"): Store(tmp_path)


def test_json_files_of_every_shape(tmp_path):
    path = tmp_path/"a.json"
    for text in ('[{"id": 1}, {"id": 2}]', '{"data": [\n{"id": 1},\n{"id": 2}]}', '{"id": 1}\n{"id": 2}\n'):
        path.write_text(text)
        assert [r["id"] for r in read_rows(path)] == [1, 2]
    path.write_bytes('[{"id": "é"}]'.encode("latin-1"))
    with pytest.raises(SpotError, match="UTF-8"): read_rows(path)
    path.write_text('[{"id": 1},\n{"id": }]')
    with pytest.raises(SpotError, match="line 2"): read_rows(path)


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path/"a.jsonl"
    path.write_bytes(b'{"id": "a"}\nnot json\n{"id": "c"}\n')
    with pytest.raises(SpotError, match="line 2"): Store(path)
    assert path.read_bytes().count(b"\n") == 3
    with pytest.raises(SpotError, match="line 2"): read_jsonl(path)


def test_one_writer_and_unique_ids(tmp_path):
    with Store(tmp_path/"a.jsonl") as store:
        store.append({"id": 1})
        with pytest.raises(SpotError, match="before"): store.append({"id": 1})
        with pytest.raises(SpotError, match="another process"): Store(tmp_path/"a.jsonl")


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    store = Store(tmp_path/"a.jsonl"); store.append({"id": 1})
    real = store._file
    class Full:
        def __getattr__(self, name): return getattr(real, name)
        def flush(self): real.flush(); raise OSError(28, "No space left on device")
    store._file = Full()
    with pytest.raises(SpotError, match="No space left"): store.append({"id": 2})
    store.append({"id": 3}); store.close()
    assert [r["id"] for r in read_jsonl(tmp_path/"a.jsonl")] == [1, 3]


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path):
    path = write_jsonl(tmp_path/"a.jsonl", [{"id": 1}])
    with pytest.raises(RuntimeError), atomic_path(path) as tmp: tmp.write_text("half"); raise RuntimeError
    assert read_jsonl(path) == [{"id": 1}] and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_rows_of_every_kind_agree(tmp_path):
    import pandas as pd
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b\n", "answer": "x, y"}]
    write_jsonl(tmp_path/"r.jsonl", rows); (tmp_path/"r.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path/"r.parquet")
    pd.DataFrame(rows).to_csv(tmp_path/"r.csv", index=False)
    for kind in ("jsonl", "json", "parquet"): assert read_rows(tmp_path/f"r.{kind}") == rows
    assert [r["prompt"] for r in read_rows(tmp_path/"r.csv")] == ["a", "b\n"]
    with pytest.raises(SpotError, match="does not exist"): read_rows(tmp_path/"none.jsonl")
    (tmp_path/"r.txt").write_text("x")
    with pytest.raises(SpotError, match="unknown kind"): read_rows(tmp_path/"r.txt")


def test_lone_surrogates_and_ids(tmp_path):
    with Store(tmp_path/"a.jsonl") as store: store.append({"id": 1, "response": "\ud83d"})
    assert read_jsonl(tmp_path/"a.jsonl")[0]["response"] in ("?", "\ufffd", "\ufffd\ufffd\ufffd")
    assert len(prompt_id("\ud83d")) == 16


def test_a_rewritten_file_keeps_its_permissions_and_links(tmp_path):
    old = os.umask(0o027)
    os.umask(old)
    private, other, link = tmp_path/"private.json", tmp_path/"disk"/"big.json", tmp_path/"link.json"
    write_json(private, {"x": 1})
    assert private.stat().st_mode & 0o777 == 0o666 & ~old
    private.chmod(0o600)
    write_json(private, {"x": 2})
    assert private.stat().st_mode & 0o777 == 0o600 and read_json(private) == {"x": 2}
    write_json(other, {"x": 1})
    link.symlink_to(other)
    write_json(link, {"x": 3})
    assert link.is_symlink() and read_json(other) == {"x": 3} and len(list(tmp_path.rglob("*"))) == 4


def test_a_table_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path/"rows.csv").write_bytes("prompt,answer\nWie heißt es?,Köln\n".encode("latin-1"))
    with pytest.raises(SpotError, match="rows.csv: not UTF-8 at byte .*convert the file to UTF-8"):
        read_rows(tmp_path/"rows.csv")
