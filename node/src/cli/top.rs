//! `farkeep top`: the facts of the dashboard in a terminal, twice a second.
//!
//! A client of ordinary nodes, like the other commands about a group: it knows what INFO says. Drawing ([`draw`]) is apart from looking,
//! so that tests see what a person sees.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::group::discover::{Group, Node};
use super::group::{GroupArguments, Lookout, why_refused};
use crate::commands::info::human;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Looks that the lines at the bottom show.
const LOOKS: usize = 240;

/// Arguments of `farkeep top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    #[command(flatten)]
    group: GroupArguments,
}

/// What was seen lately.
#[derive(Debug, Default)]
struct Seen {
    group: Option<Group>,
    /// Why the last look failed, and when the last one did not.
    failure: Option<String>,
    last: Option<Instant>,
    commands: VecDeque<u64>,
    commit_us: VecDeque<u64>,
}

/// Shows a group until `q`.
///
/// # Errors
/// When there is no terminal, or no node answers at first.
pub fn top(arguments: &TopArguments) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        bail!("top needs a terminal; for scripts there is farkeep status -o json");
    }
    let mut seen = Seen::default();
    let mut lookout = Lookout::new(&arguments.group);
    seen.look(lookout.look()?);
    let mut terminal = ratatui::init();
    let result = run(&mut lookout, &mut seen, &mut terminal);
    ratatui::restore();
    result.map(|()| ExitCode::SUCCESS)
}

fn run(lookout: &mut Lookout<'_>, seen: &mut Seen, terminal: &mut ratatui::DefaultTerminal) -> Result<()> {
    loop {
        terminal.draw(|frame| draw(frame, seen))?;
        let next = Instant::now() + PERIOD;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(());
                }
            }
        }
        match lookout.look() {
            Ok(group) => seen.look(group),
            Err(error) => seen.failure = Some(super::one_line(&error)),
        }
    }
}

impl Seen {
    fn look(&mut self, group: Group) {
        let (mut commands, mut commit_us) = (0, 0);
        if let Some(leader) = group.leaders().first() {
            commands = leader.info.number("instantaneous_ops_per_sec");
            commit_us =
                times(leader, "farkeep_commit_times").map_or(0, |times| (times.p99_ms * 1000.0) as u64);
        }
        for (line, value) in [(&mut self.commands, commands), (&mut self.commit_us, commit_us)] {
            if line.len() == LOOKS {
                line.pop_front();
            }
            line.push_back(value);
        }
        self.group = Some(group);
        self.failure = None;
        self.last = Some(Instant::now());
    }
}

/// Latencies out of INFO; `None` if there were none lately.
struct Times {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

fn times(node: &Node, field: &str) -> Option<Times> {
    let text = node.info.text(field);
    let value = |name: &str| {
        let value = text.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        value.parse::<f64>().ok()
    };
    value("count").filter(|count| *count > 0.0)?;
    Some(Times { p50_ms: value("p50_ms")?, p99_ms: value("p99_ms")?, max_ms: value("max_ms")? })
}

fn draw(frame: &mut Frame<'_>, seen: &Seen) {
    let Some(group) = &seen.group else { return };
    let leaders = group.leaders();
    let followers = leaders.first().map_or(0, |leader| leader.info.lists("farkeep_follower").len());
    let [head, nodes, stages, lines, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(group.nodes.len() as u16 + group.silent.len() as u16 + 3),
        Constraint::Length(followers as u16 + 3),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(verdict(seen, group), head);
    frame.render_widget(node_table(group), nodes);
    if let Some(leader) = leaders.first() {
        frame.render_widget(stage_table(leader), stages);
    }
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(lines);
    for (area, title, values) in
        [(left, " commands per second ", &seen.commands), (right, " commit p99, µs ", &seen.commit_us)]
    {
        let now = values.back().copied().unwrap_or(0);
        let width = area.width.saturating_sub(2) as usize;
        let shown: Vec<u64> = values.iter().skip(values.len().saturating_sub(width)).copied().collect();
        let block = Block::bordered().title(title).title_bottom(format!(" now {now} "));
        frame.render_widget(Sparkline::default().block(block).data(&shown), area);
    }
    frame.render_widget(Paragraph::new(" q quits").style(Style::new().add_modifier(Modifier::DIM)), foot);
}

/// The line to read first. Colour never says anything that the text does not.
fn verdict(seen: &Seen, group: &Group) -> Paragraph<'static> {
    let leaders = group.leaders();
    let (mark, color, text) = match &leaders[..] {
        _ if seen.failure.is_some() => {
            let age = seen.last.map_or(0, |last| last.elapsed().as_secs());
            (
                "?",
                Color::Gray,
                format!(
                    "no answer; what is shown is {age} s old: {}",
                    seen.failure.clone().unwrap_or_default()
                ),
            )
        }
        [] => ("✕", Color::Red, "no node leads".to_owned()),
        [leader] => of_leader(leader),
        more => ("✕", Color::Red, format!("{} nodes take themselves for the leader", more.len())),
    };
    let mut second = String::new();
    if let Some(leader) = leaders.first() {
        let risk = match leader.info.text("farkeep_at_risk_bytes") {
            "" => "everything (no follower)".to_owned(),
            "0" => "0 B".to_owned(),
            bytes => format!("{} B, {} ms", bytes, leader.info.text("farkeep_at_risk_ms")),
        };
        let commit = times(leader, "farkeep_commit_times").map_or_else(
            || "no writes lately".to_owned(),
            |t| format!("p50 {} ms, p99 {} ms, max {} ms", t.p50_ms, t.p99_ms, t.max_ms),
        );
        second = format!("at risk now: {risk}    commit: {commit}");
    }
    let style = Style::new().fg(color).add_modifier(Modifier::BOLD);
    Paragraph::new(vec![Line::from(Span::styled(format!("{mark} {text}"), style)), Line::from(second)])
        .block(Block::bordered().title(" Farkeep "))
}

fn of_leader(leader: &Node) -> (&'static str, Color, String) {
    let info = &leader.info;
    let (have, want) = (info.number("farkeep_followers_in_reach"), info.number("farkeep_sync_followers"));
    let waits_ms = info.text("farkeep_uncommitted_ms").parse::<f64>().unwrap_or(0.0);
    if !info.text("farkeep_failure").is_empty() {
        ("✕", Color::Red, format!("the leader has stopped writing: {}", info.text("farkeep_failure")))
    } else if let Some(why) = why_refused(info) {
        ("✕", Color::Red, format!("writes are refused: {why}"))
    } else if waits_ms > 1000.0 {
        ("✕", Color::Red, format!("writes have waited for {waits_ms} ms"))
    } else if info.number("farkeep_degraded") == 1 {
        ("▲", Color::Yellow, format!("degraded: {have} of {want} followers in reach"))
    } else if have == 0 {
        ("▲", Color::Yellow, "no follower could take over".to_owned())
    } else {
        ("✓", Color::Green, format!("healthy: {have} followers in reach, {want} needed for a write"))
    }
}

fn header(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|name| Cell::from(*name))).style(Style::new().add_modifier(Modifier::BOLD))
}

fn node_table(group: &Group) -> Table<'static> {
    let answering = group.nodes.iter().map(|node| {
        let info = &node.info;
        let role = if node.is_leader() { "leader" } else { "follower" };
        let link = match (node.is_leader(), info.text("master_link_status")) {
            (true, _) => String::new(),
            (false, "up") => "✓ up".to_owned(),
            (false, _) => format!("▲ down: {}", info.text("farkeep_link_down_reason")),
        };
        Row::new([
            node.announced().to_string(),
            role.to_owned(),
            info.text("farkeep_epoch_shown").to_owned(),
            info.number("instantaneous_ops_per_sec").to_string(),
            info.text("connected_clients").to_owned(),
            info.text("farkeep_durability").to_owned(),
            human(info.number("farkeep_log_used_bytes")),
            link,
        ])
    });
    let silent = group.silent.iter().map(|node| {
        let cells = [node.address.to_string(), "✕ silent".to_owned()];
        let rest = (0..5).map(|_| String::new()).chain([node.why.clone()]);
        Row::new(cells.into_iter().chain(rest)).style(Style::new().fg(Color::Red))
    });
    let widths = [22, 9, 7, 9, 8, 9, 9].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    Table::new(answering.chain(silent), widths)
        .header(header(&["NODE", "ROLE", "EPOCH", "OPS/S", "CLIENTS", "DURABLE", "LOG USED", "LINK"]))
        .block(Block::bordered().title(" nodes "))
}

fn stage_table(leader: &Node) -> Table<'static> {
    let rows = leader.info.lists("farkeep_follower").into_iter().enumerate().map(|(at, line)| {
        let text = |name: &str| line.get(name).cloned().unwrap_or_default();
        let stage = |name: &str| {
            let lag = text(&format!("{name}_lag_ms"));
            let p99 = times(leader, &format!("farkeep_follower{at}_{name}_times"))
                .map_or_else(String::new, |times| format!("  p99 {}", times.p99_ms));
            format!("{lag}{p99}")
        };
        let late = text("durable_lag_ms").parse::<f64>().is_ok_and(|ms| ms >= 1000.0);
        let style = if late { Style::new().fg(Color::Red) } else { Style::new() };
        let state = if late { format!("▲ {}", text("state")) } else { text("state") };
        let fabric = [text("fabric"), text("mode")].join(" ");
        Row::new([text("address"), state, fabric, stage("posted"), stage("durable"), stage("applied")])
            .style(style)
    });
    let widths = [22, 13, 11].map(Constraint::Length).into_iter().chain([Constraint::Fill(1); 3]);
    Table::new(rows, widths)
        .header(header(&["FOLLOWER", "STATE", "FABRIC", "POSTED ms", "DURABLE ms", "APPLIED ms"]))
        .block(Block::bordered().title(" how far behind "))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::group::discover::{Fields, Silent};
    use super::*;

    fn shown(seen: &Seen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 30)).unwrap();
        terminal.draw(|frame| draw(frame, seen)).unwrap();
        terminal.backend().to_string()
    }

    fn group(follower: &str) -> Group {
        let info = format!(
            "role:master\r\nfarkeep_role:leader\r\nfarkeep_epoch_shown:2.0\r\nfarkeep_sync_followers:1\r\n\
             farkeep_followers_in_reach:1\r\nfarkeep_uncommitted_ms:0.000\r\nfarkeep_at_risk_bytes:0\r\n\
             farkeep_commit_times:count=9,p50_ms=0.150,p99_ms=0.900,max_ms=3.000\r\n\
             farkeep_follower0:address=b:2,state=streaming,fabric=tcp,mode=,{follower}\r\n\
             farkeep_follower0_durable_times:count=9,p50_ms=0.1,p99_ms=0.777,max_ms=1\r\n"
        );
        let node = Node { address: "a:1".parse().unwrap(), known_as: None, info: Fields::new(info) };
        let silent = Silent { address: "c:3".parse().unwrap(), why: "refused".to_owned() };
        Group { nodes: vec![node], silent: vec![silent] }
    }

    #[test]
    fn a_person_sees_the_verdict_the_nodes_and_each_stage() {
        let mut seen = Seen::default();
        seen.look(group("posted_lag_ms=0.000,durable_lag_ms=0.250,applied_lag_ms=1.5"));
        let text = shown(&seen);
        for part in [
            "✓ healthy: 1 followers in reach",
            "at risk now: 0 B",
            "p99 0.9 ms",
            "a:1",
            "c:3",
            "✕ silent",
            "0.250  p99 0.777",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("▲"), "{text}");
    }

    #[test]
    fn a_late_follower_is_marked_by_more_than_colour_and_old_figures_say_their_age() {
        let mut seen = Seen::default();
        seen.look(group("durable_lag_ms=1500.000"));
        assert!(shown(&seen).contains("▲ streaming"));
        seen.failure = Some("nobody answers".to_owned());
        let text = shown(&seen);
        assert!(text.contains("? no answer; what is shown is 0 s old: nobody answers"), "{text}");
    }
}
