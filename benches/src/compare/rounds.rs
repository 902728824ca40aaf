//! Measuring contenders in turn, round after round, and what the rounds say together.

use anyhow::{Context, ensure};
use farkeep_benches::load::{self, Limit, Outcome, Workload};
use farkeep_benches::stop::Stop;
use serde_json::{Value, json};

use crate::bars::Plan;
use crate::contender::{Contender, Cpu, Kind};
use crate::machine;

/// What is asked of every contender.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub set_percent: u32,
    pub pipeline: usize,
}

impl Case {
    pub fn name(self) -> String {
        let command = match self.set_percent {
            100 => "SET".to_owned(),
            0 => "GET".to_owned(),
            percent => format!("{percent} % SET"),
        };
        format!("{command}, pipeline {}", self.pipeline)
    }
}

/// One contender in one round.
#[derive(Debug, Clone)]
pub struct Sample {
    pub outcome: Outcome,
    pub cpu: Cpu,
    /// What neither this contender nor the generator took of the machine's CPU time, from 0 to 1.
    pub others: f64,
}

impl Sample {
    /// CPU time of leader and follower per request, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.total().as_secs_f64() * 1e6 / self.outcome.requests.max(1) as f64
    }

    /// The follower's part of [`Self::cpu_us`].
    pub fn follower_us(&self) -> f64 {
        self.cpu.follower.as_secs_f64() * 1e6 / self.outcome.requests.max(1) as f64
    }
}

/// One contender in all rounds.
#[derive(Debug, Clone)]
pub struct Series {
    pub kind: Kind,
    pub name: String,
    samples: Vec<Sample>,
}

impl Series {
    /// The median over the rounds.
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    /// The median over the rounds of `figure` here divided by `figure` there, round by round.
    pub fn ratio_to(&self, rival: &Self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(
            self.samples
                .iter()
                .zip(&rival.samples)
                .map(|(ours, theirs)| figure(ours) / figure(theirs))
                .collect(),
        )
    }

    pub fn to_json(&self) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|sample| {
                json!({
                    "others_share_of_machine": sample.others,
                    "load": sample.outcome.to_json(),
                    "cpu_us_per_request": sample.cpu_us(),
                    "follower_cpu_us_per_request": sample.follower_us(),
                })
            })
            .collect();
        json!({ "contender": self.name, "rounds": samples })
    }
}

/// Sets every key on every contender.
pub fn preload(contenders: &[Contender], plan: &Plan, stop: &Stop) -> anyhow::Result<()> {
    for contender in contenders {
        let workload = plan.workload(contender.leader.address).preload();
        let outcome = load::run(&workload, stop).with_context(|| format!("preload of {}", contender.name))?;
        check(&outcome, contender)?;
        contender.settle(stop)?;
    }
    Ok(())
}

/// Measures `case` on all contenders in turn, and again from the other end in the next round.
pub fn interleaved(
    case: Case,
    contenders: &[Contender],
    plan: &Plan,
    stop: &Stop,
) -> anyhow::Result<Vec<Series>> {
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series {
            kind: contender.kind,
            name: contender.name.clone(),
            samples: Vec::with_capacity(plan.rounds),
        })
        .collect();
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let contender = &contenders[index];
            let sample = measure(case, contender, plan, round, stop)
                .with_context(|| format!("{}: {}", contender.name, case.name()))?;
            eprintln!(
                "  {} | round {} of {} | {}: {:.0}/s",
                case.name(),
                round + 1,
                plan.rounds,
                contender.name,
                sample.outcome.throughput()
            );
            series[index].samples.push(sample);
        }
    }
    Ok(series)
}

fn measure(
    case: Case,
    contender: &Contender,
    plan: &Plan,
    round: usize,
    stop: &Stop,
) -> anyhow::Result<Sample> {
    let workload = Workload {
        pipeline: case.pipeline,
        set_percent: case.set_percent,
        // WAIT makes a write safe; a read has nothing to wait for.
        then: contender.then.clone().filter(|_| case.set_percent > 0),
        limit: Limit::Time(plan.measure),
        seed: 1 + round as u64,
        ..plan.workload(contender.leader.address)
    };
    // Warming up is a run of its own, so that the servers' CPU time can be read between it and what is measured.
    let warmup = Workload { limit: Limit::Time(plan.warmup), ..workload.clone() };
    check(&load::run(&warmup, stop)?, contender)?;
    let (busy, before) = (machine::busy()?, contender.cpu()?);
    let outcome = load::run(&workload, stop)?;
    let others = {
        let ours = contender.cpu()?.since(before).total() + outcome.client_cpu;
        let all = machine::busy()?.saturating_sub(busy);
        all.saturating_sub(ours).as_secs_f64() / (outcome.elapsed.as_secs_f64() * machine::cores() as f64)
    };
    // What an asynchronous follower still has to do for these requests is part of their cost.
    contender.settle(stop)?;
    let cpu = contender.cpu()?.since(before);
    check(&outcome, contender)?;
    Ok(Sample { outcome, cpu, others })
}

/// A run that got errors measured something else than it was meant to.
fn check(outcome: &Outcome, contender: &Contender) -> anyhow::Result<()> {
    let errors: Vec<String> =
        outcome.errors.iter().map(|(text, count)| format!("{count} x '{text}'")).collect();
    ensure!(errors.is_empty(), "{} answered with errors: {}", contender.name, errors.join(", "));
    ensure!(
        outcome.nulls == 0,
        "{} does not have {} of the keys it was given",
        contender.name,
        outcome.nulls
    );
    Ok(())
}

/// The middle value, or the mean of the two middle ones.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_not_moved_by_one_outlier() {
        assert_eq!(median(vec![1.0, 900.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 900.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
