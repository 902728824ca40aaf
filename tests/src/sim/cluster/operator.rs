//! What goes wrong, and what the operator does about it.
//!
//! The operator is one person who never does two things at once. It restarts what is down, in the role it knows it in, and
//! promotes only when enough nodes have been fenced that one of them must hold every acknowledged write; it may take
//! a leader for dead that is not.

use super::*;

impl Cluster {
    /// Something goes wrong, or the operator does something about it.
    pub(super) fn trouble(&mut self, node: usize) {
        match self.rng.below(13) {
            0..2 => self.cut(),
            2..4 => self.fault(node),
            4 => self.failover(),
            5 => self.nodes[node].light_fuse_if_up(&mut self.rng),
            6 => {
                let (a, b) = (node, self.rng.index(self.nodes.len()));
                let until = self.now_ms + self.rng.below(6000);
                self.say(|| format!("nodes {a} and {b} are cut off from each other until {until}"));
                self.partitions.push((a, b, until));
                self.cut_between(a, b);
            }
            7 => self.outbid(),
            8 => self.blackout(),
            9 => self.resync(),
            10 => self.usurp(node),
            _ => self.restart(node),
        }
    }

    fn cut(&mut self) {
        let (a, b) = (self.rng.index(self.nodes.len()), self.rng.index(self.nodes.len()));
        self.cut_between(a, b);
    }

    fn cut_between(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if let Role::Following(following) = &mut self.nodes[from].role
                && following.target == to
            {
                if let Some(control) = &following.control {
                    control.cut();
                }
                match &mut following.channel {
                    Some(Channel::Tcp(wire, _)) => wire.cut(),
                    Some(Channel::OneSided(far)) => far.cut(),
                    None => {}
                }
            }
        }
    }

    /// The operator does not trust a follower's image.
    fn resync(&mut self) {
        let leader = self.leader;
        let Role::Leading(leading) = &mut self.nodes[leader].role else { return };
        let ids: Vec<_> = leading.machine.followers().map(|follower| follower.id).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.index(ids.len())];
        // It may be needed, or be in the middle of a sync already.
        let Ok(dropped) = leading.machine.resync(id, false) else { return };
        if let Some(LeaderAction::Dropped { name, .. }) = dropped {
            leading.hang_up(id);
            self.report.resyncs += 1;
            self.say(|| format!("the operator has {name} synced anew"));
        }
    }

    /// All lose their power at once. Some come back at once, and the operator may not wait for the others.
    fn blackout(&mut self) {
        self.say(|| "all nodes lose their power".into());
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_up() {
                self.unplug(index);
                self.nodes[index].power_cut(&mut self.rng, &mut self.oracle);
                self.report.crashes += 1;
            }
        }
        let wait = self.rng.chance(50);
        for index in 0..self.nodes.len() {
            if wait && self.rng.chance(70) || !wait && index != self.leader {
                self.restart(index);
            }
        }
        if !wait {
            self.failover();
        }
    }

    fn fault(&mut self, index: usize) {
        if !self.nodes[index].is_up() {
            return;
        }
        self.unplug(index);
        self.report.crashes += 1;
        if self.rng.chance(70) {
            self.say(|| format!("node {index} loses its power"));
            self.nodes[index].power_cut(&mut self.rng, &mut self.oracle);
        } else {
            self.say(|| format!("node {index} is killed"));
            self.nodes[index].kill(&mut self.oracle);
        }
        if self.rng.chance(30) {
            self.absent[index] = self.now_ms + self.rng.between(2_000, 40_000);
        }
    }

    /// A node that is down comes back in the role the operator knows it in; a zombie may learn that it is one.
    fn restart(&mut self, index: usize) {
        if let Role::Following(following) = &self.nodes[index].role
            && following.target != self.leader
        {
            return self.follow_again(&[index]);
        }
        if self.nodes[index].is_up() && (index == self.leader || !self.nodes[index].leads()) {
            return;
        }
        if !self.calm && index != self.leader && self.now_ms < self.absent[index] {
            return;
        }
        if self.nodes[index].leads() {
            self.say(|| format!("node {index} hears that it leads no more"));
            self.unplug(index);
            self.nodes[index].kill(&mut self.oracle);
        }
        if !self.calm && self.rng.chance(20) {
            let after = self.rng.below(12);
            self.nodes[index].light_fuse(after);
        }
        if index == self.leader {
            self.say(|| format!("node {index} restarts and leads"));
            self.report.reigns += 1;
            // If its promotion came to nothing, that is done again: those who have promised still do.
            let state = self.nodes[index].state();
            let undone = state.followed != Epoch::ZERO || state.promised.epoch > state.history.epoch();
            let again = undone && !self.usurped;
            self.nodes[index].lead(Promise::default(), again, Lsn::ZERO, &mut self.rng, &mut self.oracle);
        } else {
            self.say(|| format!("node {index} restarts and follows {}", self.leader));
            self.nodes[index].follow(self.leader, self.now_ms, &mut self.rng, &mut self.oracle);
        }
    }

    /// A node is started as the leader that an old configuration says it is, and some follow it.
    fn usurp(&mut self, index: usize) {
        if index == self.leader || self.now_ms < self.absent[index] {
            return;
        }
        if self.nodes[index].is_up() {
            self.unplug(index);
            self.nodes[index].kill(&mut self.oracle);
        }
        let state = self.nodes[index].state();
        if state.is_blank() || state.mid_sync {
            return;
        }
        self.say(|| format!("node {index} restarts as a leader that nobody has promoted"));
        self.usurped = true;
        self.report.reigns += 1;
        self.nodes[index].lead(Promise::default(), false, Lsn::ZERO, &mut self.rng, &mut self.oracle);
        self.crash_if_dark(index);
        for other in 0..self.nodes.len() {
            if self.rng.chance(60) {
                self.turn_to(other, index);
            }
        }
    }

    /// The operator takes the lead from a leader that is down, or believed to be, and gives it to the most advanced of
    /// the others, if there are enough of them to be sure who that is.
    fn failover(&mut self) {
        let old = self.leader;
        if self.nodes[old].leads() && self.rng.chance(50) {
            return;
        }
        let sync = self.plan.leader.sync_followers;
        let candidates: Vec<usize> = (0..self.nodes.len())
            .filter(|&index| index != old && matches!(self.nodes[index].role, Role::Following(_)))
            .collect();
        // Any n - k + 1 of the n + 1 nodes hold what is on k followers and was on the leader.
        if sync == 0 || candidates.len() < self.nodes.len() - 1 - sync + 1 {
            return;
        }
        let next = |node: &Node| match &node.role {
            Role::Following(following) => following.machine.next_epoch(),
            _ => Epoch::ZERO,
        };
        let epoch =
            candidates.iter().map(|&index| next(&self.nodes[index])).max().expect("there are candidates");
        self.failovers += 1;
        let claim = Claim(self.failovers.to_be_bytes());
        for &index in &candidates {
            let Role::Following(following) = &mut self.nodes[index].role else { unreachable!("as filtered") };
            let actions = following.machine.fence(epoch, claim).expect("above all promises");
            self.carry_out(index, actions);
            if !self.nodes[index].is_up() {
                return self.follow_again(&candidates);
            }
            self.nodes[index].scan();
            if self.nodes[index].dark() {
                self.crash_if_dark(index);
                return self.follow_again(&candidates);
            }
        }
        let best =
            candidates.iter().copied().max_by_key(|&index| self.nodes[index].rank()).expect("as above");
        let Role::Following(following) = &self.nodes[best].role else { unreachable!("as filtered") };
        // Nobody holds anything that was acknowledged, then.
        if following.opened.is_none() || following.machine.is_mid_sync() {
            return self.follow_again(&candidates);
        }
        let promotion = following.machine.promote().expect("fenced");
        self.say(|| {
            format!("node {best} takes over from {old}: {promotion:?} at {:?}", self.nodes[best].rank())
        });
        self.nodes[best].role = Role::Down;
        self.leader = best;
        self.report.reigns += 1;
        self.usurped &= (0..self.nodes.len()).any(|index| index != old && self.nodes[index].leads());
        self.nodes[best].lead(promotion.promise, true, promotion.committed, &mut self.rng, &mut self.oracle);
        self.crash_if_dark(best);
        self.follow_again(&candidates);
    }

    /// A follower that has promised to a higher epoch than the leader's, which the operator could not know when it was down,
    /// is refused. The operator, who has made sure that the leader holds all that was acknowledged, has it begin a
    /// reign above.
    fn outbid(&mut self) {
        let leader = self.leader;
        let Role::Leading(leading) = &self.nodes[leader].role else { return };
        if self.usurped {
            return;
        }
        let known = leading.machine.committed();
        let history = self.nodes[leader].pool().log().history();
        let reign = history.current().map(Promise::to).expect("it reigns");
        let promised = |node: &Node| match &node.role {
            Role::Following(following) => match following.machine.standing().last_error {
                Some(JoinError::StaleLeader { .. } | JoinError::TwinReign(_)) => {
                    Some(following.machine.promised())
                }
                Some(JoinError::Refused(text)) if text.contains("superseded") => {
                    Some(following.machine.promised())
                }
                _ => None,
            },
            _ => None,
        };
        let is_refused = |promised: &Promise| promised.epoch >= reign.epoch || !promised.admits(reign);
        let refused = self.nodes.iter().filter_map(promised).filter(is_refused);
        if let Some(highest) = refused.max_by_key(|promised| promised.epoch) {
            let is_own =
                highest.epoch.promotions() == reign.epoch.promotions() && highest.claim == reign.claim;
            let above = if is_own && highest.epoch >= reign.epoch {
                highest
            } else {
                Promise { epoch: highest.epoch.next_promotion(), claim: Claim::NONE }
            };
            self.say(|| format!("the operator has node {leader} begin a reign above epoch {}", above.epoch));
            self.renew(leader, above, true, known);
        }
    }

    pub(super) fn renew(&mut self, leader: usize, above: Promise, promoted: bool, known: Lsn) {
        self.unplug(leader);
        self.nodes[leader].role = Role::Down;
        self.oracle.forget(leader);
        self.report.reigns += 1;
        let promise = Promise { epoch: above.epoch.next(), ..above };
        self.nodes[leader].lead(promise, promoted, known, &mut self.rng, &mut self.oracle);
        self.crash_if_dark(leader);
    }

    fn follow_again(&mut self, nodes: &[usize]) {
        let leader = self.leader;
        for &index in nodes {
            self.turn_to(index, leader);
        }
    }

    /// A node that follows is told whom.
    fn turn_to(&mut self, index: usize, leader: usize) {
        if let Role::Following(following) = &mut self.nodes[index].role {
            following.target = leader;
            let actions = following.machine.follow(self.now_ms);
            self.carry_out(index, actions);
        }
    }

    /// Ends all faults and waits until the cluster is whole again.
    pub fn settle(&mut self) -> Report {
        self.say(|| "all faults end".into());
        self.calm = true;
        self.room.set(u64::MAX);
        self.partitions.clear();
        let (mut target, mut damaged) = (None, false);
        // Long enough for a scrub of all chunks by a follower whose replay is a whole ring behind: its walk waits for that once for every
        // batch of chunks that may be unanswered.
        for round in 0..80_000 {
            if round % 50 == 0 {
                for index in 0..self.nodes.len() {
                    self.restart(index);
                }
                self.outbid();
            }
            // A leader that nobody has promoted does not take their records from the others: the one that holds the most is to lead.
            if round % 500 == 499 && !damaged && (self.usurped || self.is_stranded()) {
                self.failover();
            }
            self.step();
            let leader = self.leader;
            if !self.nodes[leader].leads() || round % 20 != 0 {
                continue;
            }
            let whole = self.joined() + 1 == self.nodes.len();
            let Role::Leading(leading) = &self.nodes[leader].role else { continue };
            let goal = *target.get_or_insert(leading.machine.appended());
            if !whole || leading.machine.committed() <= goal || leading.machine.walks() {
                continue;
            }
            if !damaged {
                damaged = true;
                let victim = (leader + 1) % self.nodes.len();
                self.say(|| format!("a bit of node {victim}'s image flips"));
                self.nodes[victim].damage(&mut self.rng);
            }
            if self.nodes.iter().any(Node::is_damaged) {
                // A scrub whose session is lost has to begin anew; when one has ended, the bytes are looked at.
                let Role::Leading(leading) = &mut self.nodes[leader].role else { continue };
                leading.machine.begin_scrub(self.now_ms);
                continue;
            }
            self.report.acknowledged = self.oracle.acknowledged;
            self.report.committed = self.oracle.committed_end().get();
            return self.report;
        }
        let states: Vec<_> = self.nodes.iter().map(|node| node.summary()).collect();
        panic!("the cluster does not come together again; leader {}: {states:#?}", self.leader);
    }

    /// Whether too few follow the operator's leader for it to lead them.
    fn is_stranded(&self) -> bool {
        match &self.nodes[self.leader].role {
            Role::Leading(leading) => !leading.machine.is_settled(),
            _ => false,
        }
    }

    /// Followers of the operator's leader that are up to date.
    fn joined(&self) -> usize {
        let Role::Leading(leading) = &self.nodes[self.leader].role else { return 0 };
        leading
            .machine
            .followers()
            .filter(|follower| follower.state == farkeep_leader::FollowerState::Streaming)
            .count()
    }
}
