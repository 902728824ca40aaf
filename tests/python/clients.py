"""redis-py against a running pair: python3 clients.py LEADER_PORT FOLLOWER_PORT. Ends with status 0 when all holds."""

import sys
import threading
import time

import redis

leader_port, follower_port = int(sys.argv[1]), int(sys.argv[2])
leader = redis.Redis(port=leader_port, decode_responses=True)
follower = redis.Redis(port=follower_port, decode_responses=True)


def until(what, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def raises(kind, text, call, *args):
    try:
        call(*args)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError(f"{call} did not raise {kind}")


def strings():
    assert leader.set("s", "v", ex=100, get=True) is None
    assert leader.get("s") == "v" and 0 < leader.ttl("s") <= 100
    assert leader.getex("s", persist=True) == "v" and leader.ttl("s") == -1
    assert leader.incrbyfloat("f", "0.1") == 0.1
    assert leader.mset({"a": "1", "b": "2"}) and leader.mget("a", "b", "none") == ["1", "2", None]
    assert leader.setbit("bits", 7, 1) == 0 and leader.bitcount("bits") == 1
    assert leader.bitfield("bf").set("u8", 0, 255).incrby("u8", 0, 1).execute() == [0, 0]
    raises(redis.ResponseError, "not an integer", leader.incr, "s")


def hashes():
    assert leader.hset("h", mapping={f"f{i}": i for i in range(300)}) == 300
    assert leader.hlen("h") == 300 and len(dict(leader.hscan_iter("h", count=7))) == 300
    assert leader.hincrby("h", "f1", 5) == 6
    raises(redis.ResponseError, "WRONGTYPE", leader.get, "h")


def transactions():
    with leader.pipeline() as pipe:
        pipe.watch("watched")
        leader.set("watched", "by another")
        pipe.multi()
        pipe.set("watched", "mine")
        try:
            pipe.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("a touched key did not abort the transaction")
    result = leader.transaction(lambda pipe: pipe.incr("counter").incr("counter"))
    assert result == [1, 2]


def pipelines():
    with leader.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.set(f"p:{i}", i)
        assert all(pipe.execute())
    assert len(list(leader.scan_iter("p:*", count=100))) == 5000


def follower_reads():
    leader.set("seen", "by the follower")
    until("the follower to apply a write", lambda: follower.get("seen") == "by the follower")
    raises(redis.exceptions.ReadOnlyError, "read only", follower.set, "seen", "no")
    assert follower.role()[0] in (b"slave", "slave") and leader.role()[0] in (b"master", "master")
    info = leader.info("replication")
    assert info["role"] == "master" and info["connected_slaves"] == 1, info
    assert info["slave0"]["state"] == "online" and info["slave0"]["port"] == follower_port, info
    assert follower.info()["master_link_status"] == "up"
    assert leader.wait(1, 1000) == 1


def binary():
    raw = redis.Redis(port=leader_port)
    value = bytes(range(256)) * 4000
    assert raw.set(b"\x00key\r\n", value) and raw.get(b"\x00key\r\n") == value


def threads():
    def add():
        mine = redis.Redis(port=leader_port)
        for _ in range(200):
            mine.incr("shared")

    workers = [threading.Thread(target=add) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert leader.get("shared") == "2000"


def server():
    assert leader.ping() and leader.echo("x") == "x"
    assert leader.config_get("databases") == {"databases": "16"}
    assert leader.client_setname("py") and leader.client_getname() == "py"
    assert isinstance(leader.time()[0], int) and leader.dbsize() > 0
    assert leader.command_count() > 50
    other = redis.Redis(port=leader_port, db=3, decode_responses=True)
    other.set("only", "in db 3")
    assert leader.get("only") is None and other.dbsize() == 1
    other.flushdb()
    assert other.dbsize() == 0 and leader.dbsize() > 0


for part in (strings, hashes, transactions, pipelines, follower_reads, binary, threads, server):
    part()
    print(f"{part.__name__}: ok")
