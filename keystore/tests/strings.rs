//! The way of a string from `SET` to `GET`.
#[expect(dead_code, reason = "not every helper is needed here")]
mod support;
use support::Store;

#[test]
fn a_string_set_is_read_back_after_a_crash() {
    let mut store = Store::new(64 << 20, true);
    assert_eq!(store.say("GET k"), "$-1\r\n");
    assert_eq!(store.say("SET k hello"), "+OK\r\n");
    assert_eq!(store.say("APPEND k _world"), ":11\r\n");
    for i in 0..10_000 {
        assert_eq!(store.say(&format!("SET key:{i} value:{i}")), "+OK\r\n");
    }
    store.run_and_lose(&[b"SET", b"k", b"lost"]);
    store.reopen();
    assert_eq!(store.say("GET k"), "$11\r\nhello_world\r\n");
    for i in 0..10_000 {
        let value = format!("value:{i}");
        assert_eq!(store.say(&format!("GET key:{i}")), format!("${}\r\n{value}\r\n", value.len()));
    }
    assert_eq!(store.say("INCR n"), ":1\r\n");
    assert_eq!(store.say("SET k v EX 0"), "-ERR invalid expire time in 'set' command\r\n");
    assert_eq!(store.say("GET"), "-ERR wrong number of arguments for 'get' command\r\n");
    assert_eq!(store.say("NOPE a b"), "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b' \r\n");
}
