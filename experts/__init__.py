"""Experts: what each modality knows. See experts.base for the contract."""
