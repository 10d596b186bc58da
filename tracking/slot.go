package tracking

import "strings"

// Slot returns the slot of a key, which may be given in parts: the CRC16 of its hash tag, or of the whole key if it has none, as the cluster
// specification has it (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
func Slot(parts ...string) int {
	for _, part := range parts {
		if strings.IndexByte(part, '{') >= 0 {
			parts = []string{hashed(strings.Join(parts, ""))}
			break
		}
	}
	crc := uint16(0)
	for _, part := range parts {
		for i := range len(part) {
			crc = crc<<8 ^ crc16[byte(crc>>8)^part[i]]
		}
	}
	return int(crc % Slots)
}

// hashed returns the part of a key that decides its slot: what is between the first brace and the first that closes it, unless that is nothing.
func hashed(key string) string {
	if _, after, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

// crc16 is the table of CRC16-XMODEM: polynomial 0x1021, initially 0, not reflected.
var crc16 = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()
