//! The leader's end of a follower's control channel: a follower says who it is, joins, and from then on how far it is.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use farkeep_core::pmem::domain::Durability;
use farkeep_fabric::{FabricKind, shm};
use farkeep_leader::{FollowerEntry, FollowerId, Join, Peer};
use farkeep_proto::control::{self, Body, HandoverStep, Hello};

use super::{Attached, Session, durability};
use crate::clients::Client;
use crate::config::{FabricChoice, LeaderAddress};
use crate::engine::Engine;
use crate::node::Node;
use crate::worker::Now;

/// A control channel.
#[derive(Debug)]
pub struct ControlPeer {
    host: String,
    worker: usize,
    session: Option<FollowerId>,
    /// Where the follower serves its own clients.
    follower: Option<LeaderAddress>,
    buffer: Vec<u8>,
}

impl ControlPeer {
    /// The channel of a connection that said `FARKEEP.REPLICATE`.
    pub fn new(client: &Client) -> Self {
        let host = client.peer.rsplit_once(':').map_or(client.peer.as_str(), |(host, _)| host);
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            worker: client.worker,
            session: None,
            follower: None,
            buffer: Vec::new(),
        }
    }

    /// Takes received bytes; answers go to `out`.
    ///
    /// # Errors
    /// When the connection is of no more use; what is in `out` should still be sent.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        engine: &mut Engine,
        node: &Arc<Node>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let mut consumed = 0;
        while let Some((envelope, len)) = control::decode(&self.buffer[consumed..])? {
            consumed += len;
            match envelope.body {
                Some(Body::Hello(hello)) => self.hello(&hello, engine, node, now, out)?,
                Some(Body::Ready(ready)) => {
                    let id = FollowerId::new(ready.session);
                    let (leader, sessions) = engine.leading().context("this node is not the leader")?;
                    let Some(session) = sessions.by_id.get_mut(&id) else { bail!("the session is over") };
                    let again = std::mem::replace(&mut session.ready, true);
                    if let Some((offer, window)) = session.wants_connection(ready.rdma) {
                        node.rdma.connect(node, id, offer, window)?;
                    }
                    if !again {
                        sessions.start_if_ready(leader, id, now)?;
                    }
                    sessions.introduce(node, leader);
                }
                Some(Body::Status(status)) => {
                    let id = FollowerId::new(status.session);
                    let stands_down = engine.stands_down();
                    let (leader, _) = engine.leading().context("this node is not the leader")?;
                    // The window of a follower that has taken over closes before it says so here. What it said of itself before
                    // that must not end the connection.
                    if !stands_down || leader.follower(id).is_some() {
                        leader.status(now.ms, id, &status)?;
                    }
                }
                Some(Body::ChunkAnswer(answer)) => {
                    let id = FollowerId::new(answer.session);
                    engine.walk_answered(node, now, id, &answer)?;
                }
                Some(Body::Handover(step)) => match step.step() {
                    HandoverStep::Ask => {
                        let successor = self.follower.clone().context("no session was begun")?;
                        let id = FollowerId::new(step.session);
                        let end = engine.stand_down(node, id, successor, step.offered)?;
                        let answer = if end.is_some() { HandoverStep::Grant } else { HandoverStep::Refuse };
                        let answer = control::Handover {
                            session: step.session,
                            step: answer.into(),
                            end_lsn: end.unwrap_or_default().get(),
                            request: step.request,
                            ..control::Handover::default()
                        };
                        control::encode(Body::Handover(answer), out);
                    }
                    HandoverStep::Taken => engine.handed_over(node, now, FollowerId::new(step.session))?,
                    // What a leader says.
                    HandoverStep::Offer | HandoverStep::Grant | HandoverStep::Moved => {}
                    HandoverStep::Refuse => engine.declined(node, FollowerId::new(step.session)),
                    HandoverStep::Unknown => {}
                },
                Some(Body::Goodbye(goodbye)) => bail!("the follower ends the session: {}", goodbye.reason),
                _ => {}
            }
        }
        self.buffer.drain(..consumed);
        Ok(())
    }

    fn hello(
        &mut self,
        hello: &Hello,
        engine: &mut Engine,
        node: &Node,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let config = node.config();
        if let Some(leader) = engine.moved_to(node, hello) {
            let moved = control::Handover {
                step: HandoverStep::Moved.into(),
                address: leader.host,
                port: leader.port.into(),
                ..control::Handover::default()
            };
            control::encode(Body::Handover(moved), out);
            return Ok(());
        }
        let Some((_, sessions)) = engine.leading() else {
            let text =
                "this node is a follower itself; followers of followers are not supported, follow the leader";
            let refuse = control::Refuse {
                reason: control::RefuseReason::NotLeader.into(),
                text: text.to_owned(),
                epoch: 0,
            };
            control::encode(Body::Refuse(refuse), out);
            return Ok(());
        };
        let failing = sessions.memory.reason(&hello.node_id, now.ms);
        let (fabrics, unusable) = usable_fabrics(config.fabric, node.rdma.device().err(), failing);
        let peer = Peer { address: self.host.clone(), fabrics, unusable };
        let joined = engine.join(node, now, hello, &peer);
        let (Some(joined), Some((leader, sessions))) = (joined, engine.leading()) else { return Ok(()) };
        match joined {
            Join::Accepted { id, welcome, replaces, why_sync } => {
                if let Some(why) = why_sync {
                    let follower = leader.follower(id).map(FollowerEntry::name).unwrap_or_default();
                    tracing::info!(follower, why, from = welcome.resume_lsn, "a follower needs a delta sync");
                }
                if let Some(old) = replaces {
                    sessions.by_id.remove(&old);
                }
                let mut session = Session::new(hello, self.worker);
                if FabricKind::from_name(&welcome.fabric) == Some(FabricKind::Shm) {
                    session.window = Some(open_shm(hello, welcome.session, durability(config.durability))?);
                }
                control::encode(Body::Welcome(*welcome), out);
                sessions.by_id.insert(id, session);
                sessions.introduce(node, leader);
                self.session = Some(id);
                self.follower = leader
                    .follower(id)
                    .map(|follower| LeaderAddress { host: follower.address.clone(), port: follower.port });
            }
            Join::Refused(refuse) | Join::Unchecked { refuse, .. } => {
                if sessions.complaints.is_news(now.ms, &format!("{}:{}", self.host, refuse.text)) {
                    tracing::warn!(
                        follower = %format!("{}:{}", self.host, hello.listening_port),
                        reason = %refuse.text,
                        "refused a follower"
                    );
                }
                engine.count_refusal();
                control::encode(Body::Refuse(refuse), out);
            }
            // Somebody is about to take over.
            Join::Renew { refuse, .. } if engine.stands_down() => control::encode(Body::Refuse(refuse), out),
            Join::Renew { above, refuse } => {
                tracing::info!(epoch = %above.epoch, "a follower has promised to a later epoch; renewing the reign");
                engine.renew_reign(node, above)?;
                control::encode(Body::Refuse(refuse), out);
            }
        }
        Ok(())
    }

    /// The session, once there is one.
    pub fn session(&self) -> Option<FollowerId> {
        self.session
    }

    /// The connection is gone.
    pub fn closed(&self, engine: &mut Engine) {
        if let (Some(id), Some((leader, sessions))) = (self.session, engine.leading()) {
            sessions.end(leader, id, "the control connection closed");
        }
    }
}

fn open_shm(hello: &Hello, session: u64, durability: Durability) -> Result<Attached> {
    let offer = hello.fabrics.iter().find(|offer| offer.name == FabricKind::Shm.name());
    let offer = offer.context("the follower offers no shm")?;
    let window = shm::SharedWindow::map(offer, &hello.node_id, durability)?;
    Ok(Attached::new(Box::new(shm::Remote::new(window, session)), "", 0))
}

/// The fabrics that this leader can use towards a follower, and why it cannot use rdma: there is no device, or it is
/// `failing` towards this follower. shm has to be asked for on both sides: nothing keeps a leader from storing into another
/// process's memory, so it is for tests, measurements and memory that hosts share.
fn usable_fabrics(
    choice: FabricChoice,
    no_device: Option<&str>,
    failing: Option<String>,
) -> (Vec<FabricKind>, Vec<(FabricKind, String)>) {
    let no_device = no_device.map(|why| format!("not usable on the leader: {why}"));
    // Without tcp to fall back on, an attempt is better than none.
    let failing = failing.filter(|_| choice != FabricChoice::Rdma);
    let why_no_rdma = no_device.or(failing);
    let fabrics: &[FabricKind] = match (choice, &why_no_rdma) {
        (FabricChoice::Auto, None) => &[FabricKind::Rdma, FabricKind::Tcp],
        (FabricChoice::Rdma, None) => &[FabricKind::Rdma],
        (FabricChoice::Rdma, Some(_)) => &[],
        (FabricChoice::Shm, _) => &[FabricKind::Shm, FabricKind::Tcp],
        (FabricChoice::Auto | FabricChoice::Tcp, _) => &[FabricKind::Tcp],
    };
    (fabrics.to_vec(), why_no_rdma.map(|why| (FabricKind::Rdma, why)).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rdma_is_used_where_there_is_a_device_and_it_does_not_fail() {
        use FabricKind::{Rdma, Shm, Tcp};
        let failing = || Some("the link broke, tried again in 2 s".to_owned());
        let no_device = "not usable on the leader: this host has no RDMA device".to_owned();
        let missing = Some("this host has no RDMA device");
        for (choice, device, failing, usable, why) in [
            (FabricChoice::Auto, None, None, vec![Rdma, Tcp], None),
            (FabricChoice::Auto, missing, failing(), vec![Tcp], Some(no_device.clone())),
            (FabricChoice::Auto, None, failing(), vec![Tcp], failing()),
            (FabricChoice::Rdma, None, None, vec![Rdma], None),
            (FabricChoice::Rdma, missing, None, vec![], Some(no_device.clone())),
            (FabricChoice::Rdma, None, failing(), vec![Rdma], None),
            (FabricChoice::Tcp, missing, None, vec![Tcp], Some(no_device.clone())),
            (FabricChoice::Shm, missing, None, vec![Shm, Tcp], Some(no_device)),
        ] {
            let expected = (usable, why.map(|why| (Rdma, why)).into_iter().collect::<Vec<_>>());
            assert_eq!(usable_fabrics(choice, device, failing), expected, "{choice}");
        }
    }
}
