package limits

// reserve is how many open files are left for what is no tunnel: listeners, requests
// over HTTPS, logs, certificates.
const reserve = 1000

// DefaultTotal returns how many tunnels files open files have room for: each tunnel
// takes two, one for each leg, and 1,000 are left for all else. Of fewer than 2,000, a
// half is left.
func DefaultTotal(files int) int { return (files - min(reserve, files/2)) / 2 }
