//! Bar 2: one node, reads and durable writes, beside redis-server that keeps nothing.

use farkeep_benches::stop::Stop;
use serde_json::json;

use super::{PIPELINES, Plan, caption, throughput_table};
use crate::report::{Bar, Bound, Findings};
use crate::rounds::{self, Case, Series};
use crate::site::{Medium, Site};
use crate::{farkeep, redis};

/// Throughput beside redis-server without persistence.
const THROUGHPUT_AT_LEAST: f64 = 1.0;

pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<Findings> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let mut contenders =
        vec![redis::alone("redis alone, nothing durable", redis::Persistence::Nothing, &site, plan, stop)?];
    if plan.farkeep.is_some() {
        contenders.push(farkeep::alone(&site, plan, stop)?);
    }
    rounds::preload(&contenders, plan, stop)?;
    let mut findings =
        Findings { title: "One node".into(), tables: Vec::new(), bars: Vec::new(), figures: json!({}) };
    for (set_percent, pipeline) in
        [0, 100].into_iter().flat_map(|sets| PIPELINES.map(|pipeline| (sets, pipeline)))
    {
        let case = Case { set_percent, pipeline };
        let all = rounds::interleaved(case, &contenders, plan, stop)?;
        findings.tables.push((caption(case, &all), throughput_table(&all)));
        if let [redis, farkeep] = &all[..] {
            findings.bars.push(Bar {
                number: 2,
                what: format!("throughput to redis without persistence: {}", case.name()),
                measured: farkeep.ratio_to(redis, |sample| sample.outcome.throughput()),
                bound: Bound::AtLeast(THROUGHPUT_AT_LEAST),
                unit: "x",
                is_aim: false,
            });
        }
        findings.figures[case.name()] = all.iter().map(Series::to_json).collect();
    }
    Ok(findings)
}
