//! `farkeep pool`: looking at a pool without a node.

mod report;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use farkeep_core::inspect::{self, Report as Pool};
use farkeep_core::pool::{Pool as OpenPool, PoolError, PoolOptions, hex};
use farkeep_keystore::verify::Verified;

use super::{Output, PoolArguments};
use report::Report;

/// `farkeep pool inspect`
///
/// # Errors
/// When there is no pool that this build can read.
pub fn inspect(arguments: &PoolArguments) -> Result<ExitCode> {
    let pool = look(&arguments.path, arguments.log.as_deref())?;
    print(&describe(&pool), arguments.output);
    Ok(ExitCode::SUCCESS)
}

/// `farkeep pool verify`: exit code 1 if anything is wrong.
///
/// # Errors
/// When there is no pool that this build can read, or a node is using it.
pub fn verify(arguments: &PoolArguments) -> Result<ExitCode> {
    let pool = look(&arguments.path, arguments.log.as_deref())?;
    if let Some(pid) = &pool.in_use_by {
        bail!(
            "pool {} is in use by pid {pid}: stop that process first, or look at it with INFO",
            pool.path.display()
        );
    }
    let mut findings: Vec<String> =
        pool.findings().iter().map(|finding| format!("pool: {finding}")).collect();
    let checked = if pool.survey.is_some() && pool.image_file_len >= pool.state.image_len {
        verify_contents(&pool, &mut findings)?
    } else {
        Verified::default()
    };
    print(&verdict(&pool, &checked, &findings), arguments.output);
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks every structure in the image: the keystore's against each other, and the allocator's against what the keystore
/// reaches. The pool is locked meanwhile, so that no node starts on it; neither file is stored to.
fn verify_contents(pool: &Pool, findings: &mut Vec<String>) -> Result<Verified> {
    let log_path = Some(pool.log_path.clone());
    let opened = OpenPool::open(&PoolOptions { log_path, ..PoolOptions::new(&pool.path, pool.node_id) })?;
    let heap = match inspect::contents(&opened) {
        Ok(heap) => heap,
        Err(error) => {
            findings.push(format!("image: {}", super::one_line(&error.into())));
            return Ok(Verified::default());
        }
    };
    if !heap.is_formatted() {
        return Ok(Verified::default());
    }
    let mut checked = farkeep_keystore::verify::verify(heap.view());
    let blocks = std::mem::take(&mut checked.blocks);
    findings.extend(checked.findings.iter().map(|finding| format!("keystore: image offset {finding}")));
    let found = farkeep_core::heap::verify(heap.view(), blocks);
    findings.extend(found.iter().map(|finding| format!("allocator: image offset {finding}")));
    Ok(checked)
}

/// Reads a pool. Nothing is locked, stored or made.
fn look(path: &Path, log: Option<&Path>) -> Result<Pool> {
    inspect::inspect(path, log).map_err(|error| match &error {
        PoolError::Io { path: log, source, .. }
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            anyhow!("{} is no pool: there is no log at {} (--log)", path.display(), log.display())
        }
        _ => error.into(),
    })
}

fn print(report: &Report, output: Output) {
    say!("{}", output.render(&report.table(), &report.json(), false));
}

fn describe(pool: &Pool) -> Report {
    let state = &pool.state;
    let mut report = Report::default();
    report.section("pool", "Pool");
    report.field("path", "directory", shown(&pool.path));
    report.field("in_use_by", "in use by pid", pool.in_use_by.clone());
    report.field("node_id", "node id", hex(&pool.node_id));
    report.field("dataset_id", "dataset", (!state.is_blank()).then(|| hex(&state.dataset_id)));
    report.field("mid_sync", "in the middle of a sync", state.mid_sync);

    report.section("image", "Image");
    let durability = pool.image_persistence.as_ref();
    let why = durability.map(|persistence| persistence.why.clone()).unwrap_or_default();
    report.remarked("durability", "durability", durability.map(|found| found.domain.name()), why);
    report.bytes("file_len_bytes", "length of the file", pool.image_file_len);
    report.bytes("image_len_bytes", "length at the checkpoint", state.image_len);

    report.section("log", "Log");
    report.field("path", "path", shown(&pool.log_path));
    let (durability, why) = (pool.log_persistence.domain.name(), pool.log_persistence.why.clone());
    report.remarked("durability", "durability", durability, why);
    report.field("format_version", "format version", farkeep_proto::redo::FORMAT_VERSION);
    report.bytes("ring_len_bytes", "length of the ring", pool.ring_len);
    report.bytes("segment_len_bytes", "length of a segment", pool.segment_len);

    report.section("watermarks", "Watermarks");
    report.field("oldest_lsn", "oldest_lsn", state.oldest.get());
    report.field("checkpoint_lsn", "checkpoint_lsn", state.checkpoint.lsn.get());
    if let Some(survey) = &pool.survey {
        report.remarked("committed_lsn", "committed_lsn", survey.committed.get(), "or more");
        report.field("durable_lsn", "durable_lsn", survey.end.lsn.get());
        let redo = survey.end.lsn.distance_from(state.checkpoint.lsn);
        report.bytes("redo_bytes", "to be replayed at start", redo);
        report.field("redo_transactions", "  transactions", survey.transactions);
        report.field("redo_records", "  records", survey.records);
        report.field("log_end", "why the log ends there", survey.stop.to_string());
    }

    report.section("epochs", "Epochs");
    let (epoch, promised) = (state.history.epoch(), state.promised.epoch);
    report.remarked("epoch", "epoch", epoch.get(), epoch.to_string());
    report.remarked("promised_epoch", "promised epoch", promised.get(), promised.to_string());
    report.remarked("followed_epoch", "followed epoch", state.followed.get(), state.followed.to_string());
    let reigns = state.history.reigns().iter().map(|reign| {
        serde_json::json!({
            "epoch": reign.epoch.get(),
            "replid": reign.replid.to_string(),
            "start_lsn": reign.start.get(),
        })
    });
    report.field("reigns", "reigns", reigns.collect::<Vec<_>>());
    report
}

fn verdict(pool: &Pool, checked: &Verified, findings: &[String]) -> Report {
    let mut report = Report::default();
    report.section("verify", "Verified");
    report.field("path", "pool", shown(&pool.path));
    if let Some(survey) = &pool.survey {
        report.field("transactions", "transactions read", survey.transactions);
        report.field("records", "records read", survey.records);
        report.field("durable_lsn", "up to LSN", survey.end.lsn.get());
    }
    report.field("keys", "keys", checked.keys);
    report.field("fields", "fields of hashes", checked.fields);
    report.field("sound", "sound", findings.is_empty());
    report.field("findings", "findings", findings.to_vec());
    report
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
