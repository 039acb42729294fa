"""Knowledge distillation: a trained network, the teacher, tells the one that is trained what to answer."""
