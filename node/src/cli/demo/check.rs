//! Is every acknowledged write there?

use anyhow::{Context, Result};
use farkeep_proto::resp::client::Reply;
use indicatif::ProgressBar;

use super::Interrupt;
use super::writer::{Record, counter_key, key, value};
use crate::cli::client::Client;

/// GETs in one batch.
const BATCH: usize = 500;

/// Missing or wrong writes that are named; the rest are counted.
const NAMED: usize = 5;

/// What a check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged writes looked at.
    pub checked: u64,
    /// Those that are not there as they should be.
    pub lost: u64,
    /// The first of them, in words.
    pub named: Vec<String>,
}

impl Verdict {
    fn lose(&mut self, count: u64, what: String) {
        self.lost += count;
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }
}

/// Looks at every acknowledged write of every connection.
///
/// # Errors
/// When the node stops answering.
pub fn check(
    client: &mut Client,
    records: &[Record],
    bar: &ProgressBar,
    interrupt: &Interrupt,
) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for record in records {
        for numbers in record.acknowledged.chunks(BATCH) {
            interrupt.check()?;
            check_batch(client, record.writer, numbers, &mut verdict).context("the check was broken off")?;
            bar.inc(numbers.len() as u64);
        }
        check_counter(client, record, &mut verdict)?;
        bar.inc(record.counter);
    }
    Ok(verdict)
}

fn check_batch(
    client: &mut Client,
    writer: usize,
    numbers: &[u32],
    verdict: &mut Verdict,
) -> std::io::Result<()> {
    for &number in numbers {
        client.queue(&[b"GET", key(writer, number).as_bytes()]);
    }
    client.send()?;
    for &number in numbers {
        let reply = client.receive()?;
        verdict.checked += 1;
        if reply != Reply::Bulk(value(writer, number).into_bytes()) {
            verdict.lose(1, format!("{} is {reply:?}", key(writer, number)));
        }
    }
    Ok(())
}

/// A counter may be ahead of the last acknowledged value by what was in flight, never behind it.
fn check_counter(client: &mut Client, record: &Record, verdict: &mut Verdict) -> Result<()> {
    let key = counter_key(record.writer);
    let reply = client.must(&["GET", &key])?;
    let found = match &reply {
        Reply::Bulk(text) => String::from_utf8_lossy(text).parse().unwrap_or(0),
        _ => 0,
    };
    verdict.checked += record.counter;
    if let Some(count) = counter_loss(record, found) {
        verdict.lose(count, format!("{key} is {reply:?} and was acknowledged as {}", record.counter));
    }
    Ok(())
}

/// How many acknowledged increments a counter lacks; one that was never sent counts as one error, too.
fn counter_loss(record: &Record, found: u64) -> Option<u64> {
    if found < record.counter {
        Some(record.counter - found)
    } else if found > record.increments_sent {
        Some(1)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_may_be_ahead_by_what_was_in_flight_and_never_behind() {
        let record = Record { counter: 10, increments_sent: 11, ..Record::default() };
        assert_eq!(counter_loss(&record, 8), Some(2));
        assert_eq!(counter_loss(&record, 10), None);
        assert_eq!(counter_loss(&record, 11), None);
        assert_eq!(counter_loss(&record, 12), Some(1));
    }
}
