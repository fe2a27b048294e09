package agents

// unwatch ends all watches of a resource that is not managed any more.
func (h *Host) unwatch(k key) {
	h.watcher.set(k, nil)
	h.net.forget(k)
	h.files.forget(k)
	h.mounts.forget(k)
	h.signals.forget(k)
	h.proxies.forget(k)
	h.cards.forget(k)
	h.bus.forget(k)
	h.bus.manages(k, "")
}
