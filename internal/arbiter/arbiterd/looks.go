package arbiterd

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

const (
	// packetBatch is how many datagrams are read or written with one call.
	packetBatch = 64
	// gather looks for so long before they are read, while there are many: a
	// process that is woken for each of them does little else.
	gather = 100 * time.Millisecond
	// gatherFrom so many looks per second.
	gatherFrom = 100
	// packetCost of a small datagram in the socket's buffer, in bytes.
	packetCost = 1280
	// receiveBuffer of the socket in bytes holds what comes while looks are gathered.
	receiveBuffer = 8 << 20
	// looksPerSecond that an arbiter wants to answer, by asking nodes to look less
	// often: every lookEveryMin to lookEveryMax seconds.
	looksPerSecond = 300
	lookEveryMin   = 10
	lookEveryMax   = 300
	// passAhead bounds how far in the future a pass may end, clocks included.
	passAhead = passLife + 2*time.Hour
)

// listenPackets on the address of the listener, and learn for each packet to
// which address it came: the answer comes from there.
func listenPackets(a *net.TCPAddr) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1); err != nil {
				return
			}
			if a.IP.To4() == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		return errors.Join(err, cerr)
	}}
	p, err := lc.ListenPacket(context.Background(), "udp", a.String())
	if err != nil {
		return nil, err
	}
	return p.(*net.UDPConn), nil
}

// packetRoom of a socket that is to have a large buffer: how many small
// datagrams fit into the one that it gets.
func packetRoom(u *net.UDPConn) int {
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	size := 0
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as much as the system allows
		}
		size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	return size / packetCost
}

// looks answers datagrams. One goroutine reads and decides; what has to wait
// for the disk is sent by the committer.
type looks struct {
	s      *Server
	conn   *net.UDPConn
	batch  *ipv6.PacketConn // reads and writes several at once, for IPv4 too
	random []byte
}

func (s *Server) answerLooks() {
	l := &looks{s: s, conn: s.packets, batch: ipv6.NewPacketConn(s.packets)}
	in := make([]ipv6.Message, packetBatch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, arbiter.LookMax+1)}
		in[i].OOB = make([]byte, 64)
	}
	out := make([]ipv6.Message, 0, packetBatch)
	answers := make([]byte, 0, packetBatch*arbiter.LookMax)
	var second time.Time
	count, gathering, room := 0, time.Duration(0), packetRoom(s.packets)
	for {
		n, err := l.batch.ReadBatch(in, 0)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
				return
			}
			// An ICMP error of some earlier answer, or no memory: neither lasts.
			s.log.Debug("arbiter: datagrams", "error", err)
			if !pause(s.ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		out, answers = out[:0], answers[:0]
		for i := range n {
			m := &in[i]
			start := len(answers)
			answers = l.answer(answers, m)
			if len(answers) > start {
				out = append(out, ipv6.Message{Buffers: [][]byte{answers[start:len(answers):len(answers)]}, Addr: m.Addr, OOB: replyControl(m.OOB[:m.NN])})
			}
		}
		for rest := out; len(rest) > 0; {
			k, err := l.batch.WriteBatch(rest, 0)
			if err != nil || k == 0 {
				k = 1 // this one can't be sent; it will be asked again
			}
			rest = rest[k:]
		}
		if now := time.Now(); now.Sub(second) >= time.Second {
			gathering = gatherFor(float64(count)/now.Sub(second).Seconds(), room)
			second, count = now, 0
		}
		count += n
		if gathering > 0 && n < packetBatch && !pause(s.ctx, gathering) {
			return
		}
	}
}

// gatherFor so long at this many looks per second, so that what comes meanwhile
// fills no more than a quarter of the room for them.
func gatherFor(rate float64, room int) time.Duration {
	if rate < gatherFrom {
		return 0
	}
	return min(gather, time.Duration(float64(room)/4/rate*float64(time.Second)))
}

// pause, false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer to one datagram, appended to dst; nothing if there is none (yet).
func (l *looks) answer(dst []byte, m *ipv6.Message) []byte {
	s := l.s
	drop := func(why string) []byte {
		s.metrics.looks.WithLabelValues(why).Inc()
		return dst
	}
	b := m.Buffers[0][:m.N]
	h, err := arbiter.ParseLook(b)
	if err != nil {
		return drop("malformed")
	}
	c := s.table.cluster(h.Cluster)
	if c == nil {
		return drop("unknown")
	}
	now := time.Now()
	if h.Expires <= now.Unix() || h.Expires > now.Add(passAhead).Unix() {
		return drop("expired")
	}
	key := c.passKey(s.store.self.GetPassSecret(), h)
	r := new(witnesspb.Request)
	number, err := arbiter.OpenLook(key, h, b, r)
	if err != nil {
		return drop("forged")
	}
	_, look := r.GetBody().(*witnesspb.Request_Look)
	node := string(h.Node)
	if !look || checkAsker(c, node, r) != nil {
		return drop("malformed")
	}
	if !s.table.newLook(c, node, h.Expires, key, number, now.Unix()) {
		return drop("repeated")
	}
	s.metrics.looks.WithLabelValues("ok").Inc()
	nonce := arbiter.LookNonce(h, b)
	addr, control := m.Addr.(*net.UDPAddr), m.OOB[:m.NN]
	// Most answers are there at once; one that waits for the disk is sent later.
	reply := s.table.do(c, r, func(reply *witnesspb.Reply) {
		s.metrics.answered(r, reply, time.Since(now))
		b := arbiter.AppendAnswer(nil, key, nonce, [24]byte(random(24)), s.table.lookEvery(), reply)
		_, _, _ = l.conn.WriteMsgUDP(b, replyControl(control), addr) // lost, it is asked for again
	})
	if reply == nil {
		m.OOB = make([]byte, len(m.OOB)) // the committer keeps these
		return dst
	}
	s.metrics.answered(r, reply, time.Since(now))
	return arbiter.AppendAnswer(dst, key, nonce, l.nonce(), s.table.lookEvery(), reply)
}

// nonce from a stock, for the reading goroutine only.
func (l *looks) nonce() (n [24]byte) {
	if len(l.random) < len(n) {
		l.random = make([]byte, 4096)
		_, _ = rand.Read(l.random) // never fails
	}
	l.random = l.random[copy(n[:], l.random):]
	return n
}

// passKey of a node, from memory if it has looked with it before.
func (c *cluster) passKey(secret []byte, h arbiter.LookHeader) [arbiter.PassKeySize]byte {
	c.mu.Lock()
	if l := c.lookers[string(h.Node)]; l != nil && l.expires == h.Expires {
		defer c.mu.Unlock()
		return l.key
	}
	c.mu.Unlock()
	return arbiter.PassKey(secret, h.Cluster, string(h.Node), h.Expires)
}

// newLook: this one has not been seen before.
func (t *table) newLook(c *cluster, node string, expires int64, key [arbiter.PassKeySize]byte, number uint64, now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lookers[node]
	if l == nil || l.expires < expires {
		if c.forgotten {
			return false
		}
		if l == nil && len(c.lookers) >= lookersMax {
			oldest := ""
			for name, o := range c.lookers {
				if oldest == "" || o.at < c.lookers[oldest].at {
					oldest = name
				}
			}
			delete(c.lookers, oldest)
			t.lookers.Add(-1)
		}
		if l == nil {
			t.lookers.Add(1)
		}
		if c.lookers == nil {
			c.lookers = map[string]*looker{}
		}
		l = &looker{expires: expires, key: key}
		c.lookers[node] = l
	}
	if expires < l.expires || number <= l.number {
		return false
	}
	l.number, l.at = number, now
	return true
}

// lookEvery so many seconds a node shall look, so that all of them together are
// no more than looksPerSecond.
func (t *table) lookEvery() uint16 {
	return uint16(min(max(lookEveryMin, t.lookers.Load()/looksPerSecond), lookEveryMax))
}

// replyControl makes the control message of an answer from that of its look:
// it leaves from the address that was asked, by whatever route leads back.
func replyControl(oob []byte) []byte {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range all {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			info := &unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])}
			return unix.PktInfo4(info)
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			info := &unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if info.Addr[0] == 0xfe && info.Addr[1]&0xc0 == 0x80 {
				info.Ifindex = uint32(m.Data[16]) | uint32(m.Data[17])<<8 | uint32(m.Data[18])<<16 | uint32(m.Data[19])<<24
			}
			return unix.PktInfo6(info)
		}
	}
	return nil
}
