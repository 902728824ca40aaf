//! The page, in headless Chromium.

use std::path::Path;

use farkeep_tests::browser::{Browser, key};
use farkeep_tests::load::Load;
use farkeep_tests::pair::Pair;
use farkeep_tests::server::free_port;
use farkeep_tests::{Server, ServerBuilder, http, wait};

/// A pair, each with a page, and their ports for HTTP.
fn pair(leader_args: &str) -> (Pair, u16, u16) {
    let [a, b] = [free_port(), free_port()];
    let leader = ServerBuilder::farkeep().args(&format!("--http-port {a} {leader_args}"));
    let follower = ServerBuilder::farkeep().args(&format!("--http-port {b} {leader_args}"));
    (Pair::with(leader, follower).expect_link_trouble(), a, b)
}

fn open(browser: &Browser, port: u16) {
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.wait_for("!document.body.classList.contains('waiting')");
}

fn state(browser: &Browser) -> String {
    browser.text("#verdict-state")
}

/// With FARKEEP_SCREENSHOTS, the page is also looked at by people.
fn picture(browser: &Browser, name: &str) {
    if let Some(dir) = std::env::var_os("FARKEEP_SCREENSHOTS") {
        browser.screenshot(&Path::new(&dir).join(format!("{name}.png")));
    }
}

#[test]
fn page_loads_without_a_complaint_from_nowhere_else_and_agrees_with_info() {
    let (pair, port, _) = pair("");
    let load = Load::start(pair.leader.port(), 4, 1);
    load.wait_for_more(2000);
    let browser = Browser::start();
    browser.resize(1280, 900);
    open(&browser, port);
    browser.wait_for("document.querySelectorAll('#charts canvas').length === 4");
    browser.wait_for("document.querySelectorAll('#events li').length > 0");
    load.wait_for_more(2000);
    drop(load.stop());
    assert_eq!(state(&browser), "healthy");
    pair.wait_until_applied();
    let appended: u64 = pair.leader.info("farkeep", "farkeep_appended_lsn").parse().expect("a number");
    let shown = "document.querySelector('#log').textContent.replaceAll(',', '')";
    browser.wait_for(&format!("{shown}.includes('appended_lsn{appended}')"));
    assert_eq!(browser.text(".card h3"), format!("127.0.0.1:{}", pair.follower.port()));
    browser
        .wait_for("[...document.querySelectorAll('.stage .lag')].every((lag) => lag.textContent === '0 ms')");
    let p99_us = http::get(port, "/api/v1/status").json()["commit"]["p99_us"].as_u64().expect("a number");
    assert!(p99_us > 0);
    assert_ne!(browser.text("#commit"), "–");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let own = format!("http://127.0.0.1:{port}/");
    let foreign: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|url| !url.starts_with(&own) && !url.starts_with("data:"))
        .collect();
    assert_eq!(foreign, Vec::<String>::new());
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.wait_for("document.querySelectorAll('#charts canvas').length === 4");
        picture(&browser, scheme);
    }
    browser.resize(400, 900);
    browser.wait_for("document.documentElement.scrollWidth <= 400");
    browser.wait_for(
        "[...document.querySelectorAll('#charts canvas')].every((canvas) => canvas.clientWidth < 380)",
    );
    picture(&browser, "narrow");
}

#[test]
fn stopped_follower_is_shown_with_the_stage_at_which_it_stands_still_and_a_dead_one_as_lost() {
    let (mut pair, port, _) = pair("--repl-timeout 60");
    let browser = Browser::start();
    open(&browser, port);
    pair.leader.client().expect_ok("CONFIG SET sync-followers 0");
    pair.leader.client().expect_ok("SET k v");
    pair.wait_until_applied();
    browser.wait_for("document.querySelector('#verdict').dataset.level === 'info'");
    pair.follower.freeze();
    pair.leader.client().expect_ok("SET k w");
    // In one look: a follower that is silent for 3 s is given up, and then the page says that.
    browser.wait_for(
        "[...document.querySelectorAll('.stage')].map((stage) => stage.dataset.level).join() === 'info,critical,critical' \
         && document.querySelector('#verdict-text').textContent.includes('(durable)') \
         && document.querySelector('#risk').textContent !== '0 B'",
    );
    let before = browser.text(".stage .lag");
    picture(&browser, "stopped");
    pair.follower.kill();
    browser.wait_for("document.querySelector('#lost') !== null");
    browser.wait_for("document.querySelector('#verdict').dataset.level === 'critical'");
    assert_eq!(state(&browser), "no failover target", "{before}");
    browser.wait_for(
        "[...document.querySelectorAll('#events .kind')].some((kind) => kind.textContent === 'redundancy')",
    );
}

#[test]
fn page_of_a_dead_leader_greys_out_with_its_age_and_comes_back_with_it() {
    let (mut pair, port, other) = pair("");
    let browser = Browser::start();
    open(&browser, port);
    pair.leader.kill();
    browser.wait_for("document.body.classList.contains('stale')");
    assert_eq!(state(&browser), "unknown");
    assert!(browser.text("#age").contains("no answer for"));
    picture(&browser, "dead");
    let follower = Browser::start();
    open(&follower, other);
    follower.wait_for("document.querySelector('#verdict-state').textContent === 'link down'");
    assert!(follower.text("#link").contains(&format!("127.0.0.1:{}", pair.leader.port())));
    picture(&follower, "follower");
    pair.follower.client().expect_ok("REPLICAOF NO ONE");
    follower.wait_for("document.querySelector('#facts').textContent.startsWith('leader')");
    follower.wait_for("document.querySelector('#failover').textContent !== 'none'");
    pair.leader.restart();
    browser.wait_for("!document.body.classList.contains('stale')");
}

#[test]
fn page_is_used_by_keyboard_alone() {
    let server = with_page();
    let browser = Browser::start();
    browser.resize(1280, 900);
    open(&browser, server.1);
    browser.wait_for("document.querySelectorAll('#charts canvas').length === 4");
    let focused = || {
        browser.script("const e = document.activeElement; return e.id || e.dataset.range || e.className || e.textContent")
    };
    let mut seen = Vec::new();
    for _ in 0..8 {
        browser.press(key::TAB);
        seen.push(focused().as_str().unwrap_or_default().to_owned());
        if seen.last().is_some_and(|name| name == "1h") {
            browser.press(key::ENTER);
            break;
        }
    }
    assert_eq!(seen, ["skip", "theme", "5m", "1h"], "in the order of the page");
    browser.wait_for("document.querySelector('[data-range=\"1h\"]').getAttribute('aria-pressed') === 'true'");
    let outline = browser.script("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "who has the focus is seen");
    browser.script("document.querySelector('#theme').focus()");
    browser.press(key::ENTER);
    let chosen = browser.script("return document.documentElement.dataset.theme");
    browser.press(key::ENTER);
    assert_ne!(browser.script("return document.documentElement.dataset.theme"), chosen);
}

#[test]
fn failover_by_the_page_takes_a_typed_word_and_no_mouse() {
    let password = "--requirepass secret --masterauth secret --http-actions yes --sync-followers 1";
    let [a, b] = [free_port(), free_port()];
    let mut leader = ServerBuilder::farkeep().args(&format!("--http-port {a} {password}")).start();
    let address = format!("127.0.0.1 {}", leader.port());
    let follower = ServerBuilder::farkeep().args(&format!("--http-port {b} {password}"));
    let mut follower = follower.directive("replicaof", &address).start();
    farkeep_tests::pair::expect_link_trouble(&mut leader);
    farkeep_tests::pair::expect_link_trouble(&mut follower);
    let browser = Browser::start();
    browser.resize(1280, 900);
    browser.open(&format!("http://default:secret@127.0.0.1:{a}/"));
    // The address bar's password is the browser's now; scripts may not fetch from an address with one.
    open(&browser, a);
    browser.wait_for("document.querySelector('#verdict').dataset.level === 'info'");
    browser.wait_for("document.querySelector('#topology a') !== null");
    browser.wait_for("!document.querySelector('#actions').hidden");
    let button = |label: &str| {
        format!(
            "[...document.querySelectorAll('#action-list button')].find((b) => b.textContent.startsWith('{label}'))"
        )
    };
    let result = "document.querySelector('#confirm-result').textContent";
    browser.script(&format!("{}.focus()", button("Resync")));
    browser.press(key::ENTER);
    browser.wait_for("document.querySelector('#confirm').open");
    picture(&browser, "resync");
    browser.press("resync");
    browser.press(key::ENTER);
    browser.wait_for(&format!("{result}.includes('without it 0 of the 1 followers')"));
    browser.script("document.querySelector('#force').click()");
    browser.script("document.querySelector('#confirm-go').click()");
    browser.wait_for("!document.querySelector('#confirm').open");
    browser.wait_for("document.querySelector('#sync').textContent.includes('Syncs1')");
    browser.wait_for("document.querySelector('#verdict').dataset.level === 'info'");
    browser.script(&format!("{}.focus()", button("Fail over")));
    browser.press(key::ENTER);
    browser.wait_for("document.querySelector('#confirm').open");
    assert!(browser.text("#confirm-body").contains("At risk"), "{}", browser.text("#confirm-body"));
    picture(&browser, "failover");
    browser.press("failove");
    browser.press(key::ENTER);
    assert_eq!(browser.text("#confirm-result"), "", "a word that is not complete does nothing");
    browser.press("r");
    browser.press(key::ENTER);
    browser.wait_for("document.querySelector('#facts').textContent.startsWith('follower')");
    browser.wait_for("document.querySelector('#link')?.textContent.includes('✓ up')");
    browser.wait_for(
        "[...document.querySelectorAll('#events .kind')].some((kind) => kind.textContent === 'action')",
    );
    picture(&browser, "after-failover");
    let complaints: Vec<String> = browser.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("409"), "the browser notes the one refusal: {complaints:?}");
}

#[test]
fn page_that_nobody_sees_is_not_told_anything_until_it_is_looked_at_again() {
    let (server, port) = with_page();
    let browser = Browser::start();
    open(&browser, port);
    let hide = |hidden: bool| {
        browser.script(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    let appended = || server.info("farkeep", "farkeep_appended_lsn");
    let shown = "document.querySelector('#log').textContent.replaceAll(',', '')";
    browser.wait_for(&format!("{shown}.includes('appended_lsn{}')", appended()));
    hide(true);
    server.client().expect_ok("SET key value");
    let status = || http::get(port, "/api/v1/status").json();
    let at_ms = status()["at_ms"].as_u64().expect("a time");
    wait::until("three more samples", || {
        let status = status();
        status["at_ms"].as_u64() > Some(at_ms + 3000)
            && status["watermarks"]["appended_lsn"].as_u64() == appended().parse().ok()
    });
    let include = browser.script(&format!("return {shown}.includes('appended_lsn{}')", appended()));
    assert_eq!(include, false, "it goes on listening");
    hide(false);
    browser.wait_for(&format!("{shown}.includes('appended_lsn{}')", appended()));
    browser.wait_for("document.querySelector('#age').textContent.includes('live')");
}

fn with_page() -> (Server, u16) {
    let port = free_port();
    (ServerBuilder::farkeep().args(&format!("--http-port {port}")).start(), port)
}

#[test]
fn page_of_a_lone_node_says_what_it_does_not_know() {
    let (_server, port) = with_page();
    let browser = Browser::start();
    open(&browser, port);
    assert_eq!(state(&browser), "standalone");
    assert_eq!(browser.text("#risk"), "everything");
    assert_eq!(browser.text("#failover"), "none");
    let zeros = || browser.text("#topology").contains("No followers");
    wait::until("the topology", zeros);
}
