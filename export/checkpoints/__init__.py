"""Readers of checkpoints: .pth without PyTorch, .safetensors and Hugging Face folders."""
