package report

func (r *Run) Plot(ours string) string { return "" }
