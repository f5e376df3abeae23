package watchrtcproxy

import "net/http"

// allowPreflight answers a CORS preflight that would be refused here, and reports
// whether it did. A refused preflight keeps the browser from sending the request
// itself, and so keeps its page from reading why that is refused. No permission is
// given by it that could be used: the request is refused in turn, or answered by
// the relay under its own CORS rules.
func allowPreflight(w http.ResponseWriter, r *http.Request, f *refusal) bool {
	origin, method := r.Header.Get("Origin"), r.Header.Get("Access-Control-Request-Method")
	if r.Method != http.MethodOptions || origin == "" || method == "" || f.status == http.StatusForbidden {
		return false
	}
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Allow-Methods", method)
	if fields := r.Header.Values("Access-Control-Request-Headers"); len(fields) > 0 {
		header["Access-Control-Allow-Headers"] = fields
	}
	header.Set("Access-Control-Max-Age", "0") // the relay may be back any time
	header.Add("Vary", "Origin")
	w.WriteHeader(http.StatusNoContent)
	return true
}
