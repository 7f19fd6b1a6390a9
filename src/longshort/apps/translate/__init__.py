"""Machine translation: `Translator().fit(pairs).translate("...")`. Names load on first use."""
