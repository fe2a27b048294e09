package eventcode

// Table of all codes, by subject and code.
var Table = []Code{
	{"audit.done", one(information), "Somebody has changed something: who, from where, and which procedure of the API.", ""},
	{"audit.refused", one(warning), "Somebody was refused a call. Refusals are written down at most once a second; the message counts the others.", "If it should be allowed: `holdfast user add`. If not, find out who tries."},

	{"certificates.renewed", one(information), "An administrator has all nodes renew their certificates.", ""},

	{"cluster.destroyed", one(critical), "An administrator has given the cluster up; its nodes forget it.", ""},
	{"cluster.started", one(information), "Enough nodes have seen each other: groups start by themselves from now on.", ""},

	{"config.changed", one(information), "The configuration was changed; the audit event after it says by whom.", ""},

	{"fence.confirmed", one(warning), "An administrator has said that a lost node is down. Its groups start elsewhere.", ""},
	{"fence.done", one(warning), "A lost node was switched off.", "Find out why it was lost before it is switched on again."},
	{"fence.failed", one(failure), "A lost node could not be switched off. It is tried again; groups that require it wait.", "`holdfast fence history` and `holdfast fence test NODE` tell what is wrong with the devices; look at the machine yourself and say `holdfast node confirm-down NODE`."},
	{"fence.lied", one(critical), "Fence agents say that a node is off, but its heartbeats arrive.", "Devices or plugs are wrong, and another machine may have been hit: mend them at once."},
	{"fence.started", one(warning), "A node begins to switch another one off.", ""},

	{"group.admin-wait-cleared", one(information), "An administrator has ended what a group or a resource was waiting for a person for.", ""},
	{"group.attached", one(information), "A group that went on without the cluster is looked after again: its node is back.", ""},
	{"group.autoenabled", one(warning), "An administrator has said that a group does not run on a node of which nobody could tell. It may start elsewhere.", "Make sure that it is true: two copies of it would damage what they write."},
	{"group.cleared", one(information), "An administrator has cleared faults of a group or a resource.", ""},
	{"group.disabled", one(warning), "A group may not run on a node any more.", "`holdfast group enable GROUP` allows it again."},
	{"group.enabled", one(information), "A group may run on a node again.", ""},
	{"group.faulted", one(failure), "A group has failed on a node.", "`holdfast explain group GROUP`; when the cause is mended: `holdfast group clear GROUP`."},
	{"group.flushed", one(warning), "An administrator has made agents forget what they were waiting to do.", ""},
	{"group.frozen", one(information), "A group is frozen: nothing is done about it by itself.", "`holdfast group unfreeze GROUP` when the work is done."},
	{"group.maintained", one(information), "The maintenance of a group on a node is over: faults count again.", ""},
	{"group.maintenance", one(warning), "Faults of a group on a node are ignored while somebody works there.", "`holdfast explain group GROUP` says until when, and how it is ended."},
	{"group.nofailover", one(critical), "A group has failed, or its node was lost, and there is no node that it could go to.", "`holdfast explain group GROUP` says why not, node by node."},
	{"group.offline", one(information), "A group is offline on a node, as was ordered.", ""},
	{"group.online", one(information), "A group is online on a node.", ""},
	{"group.switching-off", one(warning), "A group neither starts nor moves by itself.", "`holdfast explain group GROUP` says who wanted that, and how it is ended."},
	{"group.switching-on", one(information), "A group starts and moves by itself again.", ""},
	{"group.unfrozen", one(information), "A group is no longer frozen.", ""},
	{"group.violation", one(critical), "A group runs on more nodes than it may. All but one are taken offline.", "Find out who started it there; look after data that both may have written."},

	{"guard.started", one(warning), "Guard had ended on a node and was started again; services went on.", "The node's log says why it ended."},

	{"node.detached", one(warning), "A node has left the cluster, and groups go on there without it. Nobody else starts them.", "Start the node's daemon again when the work is done. If the node is lost meanwhile: `holdfast node confirm-down NODE`."},
	{"node.detaching", one(warning), "A node is being stopped, and groups will go on there without the cluster.", ""},
	{"node.enrolled", one(information), "A machine has got the identity of a node with a token.", ""},
	{"node.evacuating", one(information), "An administrator has the groups of a node moved away.", ""},
	{"node.evicted", one(failure), "A node was lost: it is no member any more, and its groups move as soon as that is safe.", "`holdfast status` and its log tell why; it comes back by itself when it is heard again."},
	{"node.frozen", one(information), "A node is frozen: no group comes to it by itself.", "`holdfast node unfreeze NODE` when the work is done."},
	{"node.invited", one(information), "A machine may join with a token.", ""},
	{"node.jeopardy", one(warning), "A node is heard over its last link only.", "`holdfast link list` shows which links are down: mend them before the last one goes too."},
	{"node.joined", one(information), "A node has become a member.", ""},
	{"node.joining", one(information), "A node has begun to join: it gets the state of the cluster.", ""},
	{"node.leaving", one(information), "An administrator stops a node.", ""},
	{"node.left", one(information), "A node has left in an orderly way; nothing runs there.", ""},
	{"node.load", one(warning), "A node has been loaded above its warning level for a while.", "Move groups away (`holdfast group switch`), or find out what needs so much."},
	{"node.probation", one(warning), "A node was evicted again and again: it has to wait before it may join.", "Look after its links, its load and its disk."},
	{"node.removed", one(warning), "A node was taken out of the configuration; its certificate is refused from now on.", ""},
	{"node.reset", one(critical), "A node is reset, as a package or service there demands when it fails (fail-fast).", "Its log says what failed; look after it before it is started again."},
	{"node.resigned", one(warning), "A node has lost its log, runs nothing, and joins as new.", "Look after its disk."},
	{"node.silence", one(information), "A node may be silent for a while: nobody evicts it meanwhile.", ""},
	{"node.started", one(information), "The daemons of a node have started.", ""},
	{"node.stays", one(information), "A node was suspected, is heard again, and stays.", "If it comes often, look after the links."},
	{"node.stopped", one(information), "A lost node is proven to run nothing any more: its groups may start elsewhere.", ""},
	{"node.unfrozen", one(information), "A node is no longer frozen.", ""},
	{"node.uninvited", one(information), "A token is void.", ""},
	{"node.unproven", one(warning), "A lost node is not proven to be off, and groups that require that wait.", "`holdfast fence list`; look at the machine yourself and say `holdfast node confirm-down NODE`."},

	{"notifier.gave-up", one(failure), "A notifier could not tell events for as long as it was to try; the message says which and why. It goes on with later ones.", "`holdfast notifier list`, mend the cause, `holdfast notifier test NAME`. The events are in `holdfast events`."},
	{"notifier.skipped", one(failure), "A notifier was behind by more events than the leader still has: they were not told.", "The message says which; other nodes may have them: `holdfast events`."},
	{"notifier.test", one(information), "An event that exists only to be told: `holdfast notifier test`. It is not in the log.", ""},

	{"protocol.raised", one(information), "All members speak a newer version of the protocol: nodes that do not are refused from now on.", ""},

	{"quorum.changed", one(information), "The coordination points are others than before.", ""},

	{"resource.admin-wait", one(failure), "A resource waits for a person: what it did is not known, and nothing is done by itself.", "Look after it, then `holdfast resource clear-admin-wait RESOURCE`."},
	{"resource.confidence", one(information), "An agent is more, or less, sure than before that a resource is online.", ""},
	{"resource.faulted", one(failure), "A resource has failed on a node.", "The message says how; `holdfast resource show RESOURCE`."},
	{"resource.monitor-timed-out", one(warning), "A resource's monitor has taken too long.", "If the resource is well, give its type a longer monitor time-out; else find out what hangs."},
	{"resource.offline", one(information), "A resource is offline on a node.", ""},
	{"resource.online", one(information), "A resource is online on a node.", ""},
	{"resource.restarted", one(warning), "A resource has failed and is restarted in place.", "Find out why it failed: after some restarts it counts as faulted."},
	{"resource.unable-to-offline", one(failure), "A resource can't be taken offline: something of it may still run, so its group is started nowhere else.", "End it by hand, then `holdfast resource probe RESOURCE`."},
	{"resource.unknown", one(warning), "Nobody can tell whether a resource is online on a node.", "Its monitor fails or takes too long: the message says how."},

	{"rotation.done", one(information), "All nodes use the next generation of a key or of the authority; the one before is refused.", ""},
	{"rotation.started", one(information), "The next generation of a key or of the authority is handed out.", ""},
	{"rotation.switching", one(information), "All nodes have the next generation and begin to use it.", ""},

	{"trigger.dropped", one(warning), "Trigger programs are not run, since too many were waiting.", "Make the programs faster, or enable fewer triggers."},
	{"trigger.failed", one(warning), "A trigger program could not be run, took too long, or ended with an error.", "The message says which and how."},

	{"user.certificate", one(information), "A certificate was issued for a user.", ""},
	{"user.deleted", one(information), "A user was deleted; its certificates are refused from now on.", ""},
	{"user.set", one(information), "A user was added, or has other roles.", ""},

	{"watchdog.armed", one(information), "A node's watchdog resets the machine if it can't stop its groups.", ""},
	{"watchdog.disarmed", one(warning), "A node's watchdog is not armed any more.", "`holdfast status` says why; docs/fencing.md says what it is for."},
}
