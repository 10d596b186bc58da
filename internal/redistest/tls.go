package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strconv"
	"time"
)

// An Authority is a private certificate authority, trusted by those who are given its [Authority.Pool] and by nobody else.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes one.
func NewAuthority() (*Authority, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "redistest authority"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("redistest: authority: %w", err)
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("redistest: authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(encoded)
	if err != nil {
		return nil, fmt.Errorf("redistest: authority: %w", err)
	}
	return &Authority{certificate: certificate, key: key}, nil
}

// Pool returns what a program must trust to trust what the authority has signed.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Issue returns a certificate for 127.0.0.1 that serves a server and a client alike.
func (a *Authority) Issue(name string) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("redistest: certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("redistest: certificate: %w", err)
	}
	encoded, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("redistest: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{encoded}, PrivateKey: key}, nil
}

// TLSConfig says that a server takes TLS connections too, on [Server.TLSAddr]. The server binary must have been built with TLS.
type TLSConfig struct {
	// Authority has signed the server's certificate, and those of clients.
	Authority *Authority

	// Mutual has the server refuse clients without a certificate of the authority.
	Mutual bool
}

// TLSAddr returns the address for TLS connections, "127.0.0.1:port"; "" without [Config.TLS].
func (s *Server) TLSAddr() string {
	if s.config.TLS == nil {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.tlsPort))
}

// prepareTLS writes what the server needs into its directory, and chooses a port.
func (s *Server) prepareTLS() error {
	authority := s.config.TLS.Authority
	certificate, err := authority.Issue("redistest server")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return fmt.Errorf("redistest: key: %w", err)
	}
	for name, block := range map[string]*pem.Block{
		"server.crt": {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
		"server.key": {Type: "PRIVATE KEY", Bytes: key},
		"ca.crt":     {Type: "CERTIFICATE", Bytes: authority.certificate.Raw},
	} {
		if err := os.WriteFile(s.path(name), pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("redistest: %w", err)
		}
	}
	s.tlsPort, err = freePort(false)
	return err
}

// tlsSettings are the lines of the configuration file.
func (s *Server) tlsSettings() []string {
	mutual := "no"
	if s.config.TLS.Mutual {
		mutual = "yes"
	}
	return []string{
		fmt.Sprintf("tls-port %d", s.tlsPort),
		"tls-cert-file " + s.path("server.crt"),
		"tls-key-file " + s.path("server.key"),
		"tls-ca-cert-file " + s.path("ca.crt"),
		"tls-auth-clients " + mutual,
	}
}
