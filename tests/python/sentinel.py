"""redis-py's Sentinel client: python3 sentinel.py SENTINEL_PORT... Ends with status 0 when all holds."""

import sys
import time

import redis
from redis.sentinel import Sentinel

sentinels = [("127.0.0.1", int(port)) for port in sys.argv[1:]]
group = Sentinel(sentinels, socket_timeout=2, sentinel_kwargs={"socket_timeout": 2})


def until(what, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def eventually(call):
    """The result of a call that fails while the leader changes."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except redis.RedisError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


before = group.discover_master("main")
followers = group.discover_slaves("main")
assert len(followers) == 2 and before not in followers, (before, followers)

leader = group.master_for("main", decode_responses=True)
follower = group.slave_for("main", decode_responses=True)
assert leader.set("written", "before") and leader.role()[0] == "master"
until("a follower to have it", lambda: follower.get("written") == "before")
assert follower.role()[0] == "slave"

redis.Redis(port=sentinels[0][1]).execute_command("SENTINEL", "FAILOVER", "main")
until("another leader", lambda: eventually(lambda: group.discover_master("main")) != before)
assert eventually(lambda: leader.get("written")) == "before"
assert eventually(lambda: leader.set("written", "after"))
until("two followers again", lambda: len(group.discover_slaves("main")) == 2)
until("a follower to have that too", lambda: eventually(lambda: follower.get("written")) == "after")
