package tracking

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/go-nearcache/nearcache/internal/redistest"
)

// certificate returns a certificate for 127.0.0.1 and a pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	parsed, err := x509.ParseCertificate(encoded)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{encoded}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	s := redistest.Start(t, redistest.Config{})
	mine, pool := certificate(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{mine}})
	check(t, err)
	p := serveProxy(t, listener, s.Addr(), func(message []byte) []byte { return message })

	r := newRecorder(t)
	o := options(s, r)
	o.Deadline = 300 * time.Millisecond
	o.Redis.InitAddress = []string{p.address()}
	o.Redis.TLSConfig = &tls.Config{}
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrLinkDown) {
		t.Errorf("with an unknown certificate: %v", err)
	} else if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("the cause is not wrapped: %v", err)
	}
	o.Redis.TLSConfig = &tls.Config{RootCAs: pool}
	tracker := open(t, o)
	s.Do(t, "SET", "k:1", "v")
	fence(t, tracker)
	r.awaitKey("k:1", 0)
	check(t, Probe(t.Context(), o.Redis, "k:"))

	// A frozen server, and so a link that is given up without the peer's help.
	check(t, s.Pause())
	i, _ := r.awaitMethod("lost", 0)
	check(t, s.Resume())
	healed(t, s, r, i)
}
