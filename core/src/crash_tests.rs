//! The plug is pulled at every persist point of a node's life, and recovery has to make something of the wreck.
//!
//! A scenario runs once for each persist point in it, with the fuse set to blow there. While it runs, a journal notes
//! what every transaction left behind and what had been reported durable or committed before the fuse blew. Of the
//! wreck, recovery must make exactly a prefix of the transactions, with everything in it that was durable; and the
//! image, before and after, must hold nothing that was not committed (I2).

use std::sync::Arc;

use crate::heap::{Offset, RedoSink, View};
use crate::log::Replid;
use crate::lsn::Lsn;
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::Domain;
use crate::pmem::mem::Mem;
use crate::pool::Pool;
use crate::recover::{Leader, LeaderOptions, join, open_follower, open_leader};
use crate::recover_tests::{options, put};

/// A generator of well-spread numbers (SplitMix64).
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

fn image(view: &View) -> &[u8] {
    view.peek_bytes(Offset::NULL, view.image_len() as usize)
}

/// What is known about a life that ended in a crash.
#[derive(Default)]
struct Journal {
    /// For each transaction its end and the whole image after it; the first entry is "nothing".
    states: Vec<(Lsn, Vec<u8>)>,
    /// How many transactions had been reported durable, or told to be committed, when the fuse blew.
    durable: usize,
    committed: usize,
}

impl Journal {
    fn note(&mut self, leader: &Leader) {
        self.states.push((leader.appender.appended(), image(leader.heap.view()).to_vec()));
    }

    /// How many transactions end at or before `lsn`.
    fn count(&self, lsn: Lsn) -> usize {
        self.states.iter().skip(1).take_while(|(end, _)| *end <= lsn).count()
    }
}

fn start(pool: &Pool, number: u8) -> Leader {
    open_leader(pool, &LeaderOptions::new(Replid([number; 20]), Some([9; 16]))).unwrap()
}

/// A leader's life: transactions of all sizes over several laps of the ring, growth, checkpoints, a restart.
fn leaders_life(double: &Arc<CrashDouble>, domain: Domain) -> Journal {
    let mut journal = Journal { states: vec![(Lsn::ZERO, Vec::new())], ..Journal::default() };
    let pool = Pool::on_double(double, &options(domain)).unwrap();
    let mut leader = start(&pool, 1);
    let paddings = [0, 40, 3000, 200, 0, 5200, 90, 1, 2500, 700];
    for number in 1..=36u64 {
        put(&mut leader, number, paddings[number as usize % paddings.len()]);
        journal.note(&leader);
        if number % 2 == 0 {
            leader.appender.persist();
            let durable = pool.log().sync().unwrap();
            if !double.blown() {
                journal.durable = journal.count(durable);
            }
            // Committed follows durable at a distance, as if a follower had to answer first.
            if number % 4 == 0 {
                leader.appender.set_committed_hint(durable);
                if !double.blown() {
                    journal.committed = journal.durable;
                }
                leader.replayer.step(durable, 2000).unwrap();
            }
            if number % 6 == 0 {
                let checkpoint = leader.replayer.checkpoint().unwrap();
                leader.appender.set_floor(checkpoint);
                leader.heap.drop_private(leader.replayer.applied(), 64 << 10).unwrap();
            }
        }
        if number == 19 {
            // Everything that is in the log's memory survives a restart of the process alone.
            drop(leader);
            leader = start(&pool, 2);
            assert!(image(leader.heap.view()) == journal.states[19].1);
        }
    }
    journal
}

/// Looks at a wreck in both roles.
fn check(wreck: &Arc<CrashDouble>, journal: &Journal, domain: Domain, what: &str) {
    let raw = wreck.memory(Medium::Image);
    if !raw.is_empty() {
        let mut mem = Mem::anonymous(raw.len()).unwrap();
        mem.set_limit(raw.len());
        mem.bytes_mut(0, raw.len()).copy_from_slice(&raw);
        let number = View::of_image(mem, raw.len() as u64).root(0).get();
        assert!(number <= journal.committed as u64, "{what}: the image holds transaction {number} (I2)");
    }
    let pool = Pool::on_double(wreck, &options(domain)).unwrap_or_else(|error| panic!("{what}: {error}"));
    if !pool.is_blank() {
        let follower = open_follower(&pool).unwrap_or_else(|error| panic!("{what}: {error}"));
        let number = journal.count(follower.replayer.applied());
        assert!(number <= journal.committed, "{what}: the image got {number} of {} (I2)", journal.committed);
        if follower.replayer.applied() >= follower.consistent_at {
            assert!(
                image(&follower.view) == journal.states[number].1,
                "{what}: image at transaction {number}"
            );
        } else {
            assert_eq!(domain, Domain::Disk, "{what}: a follower on pmem can be read at once");
        }
        let durable = journal.count(follower.durable());
        assert!(durable >= journal.durable, "{what}: {durable} of {} durable ones found", journal.durable);
    }
    let mut leader = start(&pool, 3);
    let number = journal.count(leader.reign.start);
    assert!(number >= journal.durable, "{what}: {number} of {} durable ones found", journal.durable);
    assert!(image(leader.heap.view()) == journal.states[number].1, "{what}: view at transaction {number}");
    assert_eq!(leader.heap.is_formatted(), number > 0, "{what}");
    put(&mut leader, 1000, 300);
    let end = leader.appender.persist().max(pool.log().sync().unwrap());
    leader.replayer.run(end).unwrap();
    let replayed = View::of_image(pool.image().shared_memory(), leader.replayer.image_len());
    assert!(image(leader.heap.view()) == image(&replayed), "{what}: equal LSN, equal bytes (I5)");
}

fn sweep(domain: Domain, life: fn(&Arc<CrashDouble>, Domain) -> Journal) {
    let whole = CrashDouble::new().unwrap();
    life(&whole, domain);
    let points = whole.points();
    for point in 0..=points {
        let double = CrashDouble::new().unwrap();
        double.set_fuse(point);
        let journal = life(&double, domain);
        let mut dice = Dice(point * 2 + 1);
        let wreck = double.crash(|| dice.roll()).unwrap();
        // Half of the wrecks crash once more, somewhere in recovery or in what follows it.
        if point % 2 == 0 {
            let again = CrashDouble::holding(wreck.memory(Medium::Log), wreck.memory(Medium::Image)).unwrap();
            again.set_fuse(dice.roll() % 24);
            if let Ok(pool) = Pool::on_double(&again, &options(domain)) {
                drop(start(&pool, 9));
            }
            let wreck = again.crash(|| dice.roll()).unwrap();
            check(&wreck, &journal, domain, &format!("{domain}, point {point} of {points}, crashed again"));
        }
        check(&wreck, &journal, domain, &format!("{domain}, point {point} of {points}"));
    }
}

#[test]
fn recovery_after_a_crash_at_any_point_finds_a_prefix_with_everything_durable_on_pmem() {
    sweep(Domain::Pmem, leaders_life);
}

#[test]
fn recovery_after_a_crash_at_any_point_finds_a_prefix_with_everything_durable_on_disk() {
    sweep(Domain::Disk, leaders_life);
}

/// The life of a node that led alone, was overtaken, cuts off its suffix and follows the new leader.
fn ex_leaders_life(double: &Arc<CrashDouble>, domain: Domain) -> Journal {
    let mut journal = Journal { states: vec![(Lsn::ZERO, Vec::new())], ..Journal::default() };
    let pool = Pool::on_double(double, &options(domain)).unwrap();
    let mut leader = start(&pool, 1);
    for number in 1..=6 {
        put(&mut leader, number, 900);
        journal.note(&leader);
        leader.appender.persist();
        let durable = pool.log().sync().unwrap();
        if number <= 3 {
            leader.appender.set_committed_hint(durable);
            if !double.blown() {
                (journal.durable, journal.committed) = (number as usize, number as usize);
            }
        }
    }
    leader.replayer.run(journal.states[3].0).unwrap();
    leader.replayer.checkpoint().unwrap();
    drop(leader);
    // The other node was promoted at the end of transaction 4.
    let shared = journal.states[4].0;
    let mut history = (*pool.log().history()).clone();
    let epoch = history.epoch().next_promotion();
    let reign = crate::log::Reign { epoch, replid: Replid([5; 20]), start: shared };
    history.push(reign);
    join(&pool, shared, history).unwrap();
    if !double.blown() {
        // From here on the suffix must not come back.
        journal.states.truncate(5);
    }
    let follower = open_follower(&pool).unwrap();
    assert_eq!(follower.durable(), shared);
    journal
}

#[test]
fn a_suffix_that_was_cut_off_never_comes_back_whenever_the_crash_comes() {
    sweep(Domain::Pmem, ex_leaders_life);
    sweep(Domain::Disk, ex_leaders_life);
}
