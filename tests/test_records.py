import multiprocessing as mp, os, signal, time

from spot_nb.records import Store


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
