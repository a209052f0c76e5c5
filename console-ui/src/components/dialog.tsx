// Dialogs are React Aria's: they know keyboards and screen readers.
import { type ReactNode, useState } from "react";
import { Dialog as AriaDialog, Heading, Modal, ModalOverlay } from "react-aria-components";
import { useCommon } from "../settings";

export const Dialog = ({
  title,
  isOpen,
  onClose,
  children,
  isWide = false,
  mayLeave = true,
}: {
  title: string;
  isOpen: boolean;
  onClose: () => void;
  children: ReactNode;
  isWide?: boolean;
  mayLeave?: boolean;
}) => {
  const { t } = useCommon();
  return (
    <ModalOverlay
      className="overlay"
      isOpen={isOpen}
      isDismissable={mayLeave}
      isKeyboardDismissDisabled={!mayLeave}
      onOpenChange={(is) => {
        if (!is) onClose();
      }}
    >
      <Modal className={`modal${isWide ? " wide" : ""}`}>
        <AriaDialog>
          <div className="head">
            <Heading slot="title">{title}</Heading>
            {mayLeave && (
              <button type="button" className="icon" aria-label={t.close} onClick={onClose}>
                ×
              </button>
            )}
          </div>
          {children}
        </AriaDialog>
      </Modal>
    </ModalOverlay>
  );
};

// The form of a dialog: its fields, and the buttons that send it or leave it.
export const DialogForm = ({
  label,
  isBusy,
  onSubmit,
  onClose,
  children,
}: {
  label: string;
  isBusy: boolean;
  onSubmit: () => unknown;
  onClose: () => void;
  children: ReactNode;
}) => {
  const { t } = useCommon();
  return (
    <form
      className="form"
      onSubmit={(event) => {
        event.preventDefault();
        void onSubmit();
      }}
    >
      {children}
      <div className="row">
        <button type="submit" className="primary" disabled={isBusy}>
          {label}
        </button>
        <button type="button" onClick={onClose}>
          {t.cancel}
        </button>
      </div>
    </form>
  );
};

// Something that cannot be undone is asked twice.
export const Sure = ({
  label,
  question,
  onSure,
  className = "",
}: {
  label: string;
  question: string;
  onSure: () => unknown;
  className?: string;
}) => {
  const { t } = useCommon();
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <button type="button" className={className} onClick={() => setOpen(true)}>
        {label}
      </button>
      <Dialog title={label} isOpen={isOpen} onClose={() => setOpen(false)}>
        <p>{question}</p>
        <div className="row">
          <button
            type="button"
            className="danger"
            onClick={() => {
              setOpen(false);
              void onSure();
            }}
          >
            {label}
          </button>
          <button type="button" onClick={() => setOpen(false)}>
            {t.cancel}
          </button>
        </div>
      </Dialog>
    </>
  );
};
